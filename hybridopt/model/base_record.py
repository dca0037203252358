"""The base model as it was: a checksum of every tensor, so that changes are saved and other bases refused."""

import math
import weakref
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from .adapters import bare
from .changed_codes import Codes
from .deferred_checksums import checksum_or_later
from .quantization.coded import codes_dtype, plain
from .quantization.owners import is_frozen, kept_dtype, logical_shape
from .quantization.scales import scales
from .roles import base_name, clean, of_base

__all__ = [
    "Base",
    "changed",
    "forget",
    "merged",
    "persistent_buffers",
    "record",
    "Origin",
    "remember",
    "remembered",
    "restructured",
    "first_difference",
    "without_values",
]

# Base name: [elements before packing, dtype, checksum]; None: no base has these values. It may be a LaterChecksum.
Base = dict[str, list]
_UNWRAPPED: "weakref.WeakKeyDictionary[nn.Module, Origin]" = weakref.WeakKeyDictionary()
REMEMBERED = "_hybridopt_base"  # the attribute of a base module that holds its Origin


def record(model: nn.Module) -> Base:
    """Return [elements before packing, dtype, checksum] of every parameter and persistent buffer of the base model.

    By base name; adapters on the model do not count, and tied tensors count once.
    """
    return {
        n: [math.prod(logical_shape(t)), str(kept_dtype(t)), checksum_or_later(t)] for n, t in _tensors(model).items()
    }


def changed(model: nn.Module, base: Base) -> dict[str, Tensor]:
    """Return the base tensors that differ from the record `base`, by live name: what has to be saved.

    These are unquantized parameters and persistent buffers. Weights trained as codes always differ, and are given as
    their codes with the constants; so do scales that are opened for training, and tensors that no base has.
    """
    parameters = ((n, p) for n, p in model.named_parameters() if p.is_floating_point() and not is_frozen(p))
    live = [(n, t) for n, t in (*parameters, *persistent_buffers(model)) if base_name(n) in base]
    other = [(n, t) for n, t in live if codes_dtype(t) or not _is(t, base[base_name(n)])]
    found = {name: x for n, t in other for name, x in plain(clean(n), t.detach()).items()}
    return found | {clean(n): x.detach() for n, _, x in scales(model)}


def merged(old: Base, new: Base, unstored: Collection[str] = ()) -> Base:
    """Return the record of a model that may have been trained before.

    Tensors that were there before, in the size that they have now, are compared with what they were then.

    Args:
        old: the record made at that time; empty for a model that is wrapped for the first time.
        new: the record of the model as it is now.
        unstored: names of the tensors that cannot be read from where the model came from. These, and what is not as it
            was in `old`, are of no base: their values must be saved.
    """
    kept = {n: old[n] for n, mark in new.items() if n in old and old[n][0] == mark[0]}
    lost = new.keys() if old else unstored
    return without_values(new, lost) | kept


def without_values(base: Base, names: Collection[str]) -> Base:
    """Return a record that knows no values of the named tensors: they are always saved, and agree with any base."""
    return {n: [*mark[:2], None] if n in names else mark for n, mark in base.items()}


def first_difference(live: Base, base: Base) -> str | None:
    """Return the first difference between two base records as a sentence, or None if they agree.

    A checksum in `base` that is None agrees with any values, and so does one of another dtype: quantized weights can
    be told apart only from such as were quantized the same way.
    """
    for name in sorted(live.keys() ^ base.keys()):
        return f"{name!r} is only {'here' if name in live else 'there'}"
    for name, (elements, dtype, digest) in base.items():
        mine = live[name]
        if mine[0] != elements:
            return f"{name!r} has {mine[0]} elements, and had {elements}"
        if digest is not None and mine[1] == dtype and mine[2] != digest:
            return f"{name!r} has other values"
    return None


def restructured(model: nn.Module, base: Base, apart: Collection[str] = ()) -> str | None:
    """Return a sentence on the first base tensor that was added, removed or resized since `base`, or None.

    No values are read.

    Args:
        model: as it is now.
        base: its record.
        apart: names of tensors that nothing is said of.
    """
    live = {n: [math.prod(logical_shape(t)), "", None] for n, t in _tensors(model).items() if n not in apart}
    return first_difference(live, {n: [mark[0], "", None] for n, mark in base.items() if n not in apart})


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers of the base model, by base name."""
    own = of_base(model)
    return {base_name(n): t for n, t in (*model.named_parameters(), *persistent_buffers(model)) if own(n)}


def persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of every buffer that `state_dict` holds."""
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


def _is(tensor: Tensor, mark: list) -> bool:
    """Return whether a tensor has the values that a record knows; unknown ones are never the same."""
    return mark[2] is not None and mark[2] == checksum_or_later(tensor)


@dataclass(frozen=True, eq=False)
class Origin:
    """What a model was when it was wrapped for the first time.

    Args:
        base: the record of its tensors.
        codes: that of what its frozen quantized weights are made of.
        quantization: the scheme of `quantized`; None without.
        quantized: names of the layers that `wrap` quantized.
    """

    base: Base
    codes: Codes = field(default_factory=dict)
    quantization: str | None = None
    quantized: tuple[str, ...] = ()


def remember(model: nn.Module, origin: Origin) -> None:
    """Keep what a model was for the next `wrap`: its weights may be trained ones.

    With adapters it is kept in the base itself: it stays when these are merged or taken off, and in copies.
    """
    if bare(model) is model:
        _UNWRAPPED[model] = origin
    else:
        bare(model).__dict__[REMEMBERED] = origin


def remembered(model: nn.Module) -> Origin:
    """Return what is kept of the base of a model; empty records if nothing is."""
    return bare(model).__dict__.get(REMEMBERED) or _UNWRAPPED.get(bare(model)) or Origin({})


def forget(model: nn.Module) -> None:
    """Keep no record of the base of a model any more."""
    bare(model).__dict__.pop(REMEMBERED, None)
    _UNWRAPPED.pop(bare(model), None)
