"""The base model as it was: a checksum of every tensor, so that changes are saved and other bases refused."""

import math
import weakref
from collections.abc import Iterator

from torch import Tensor, nn

from .adapters import bare
from .checksums import checksum
from .quantization.coded import codes_dtype, plain
from .quantization.owners import logical_shape
from .quantization.scales import scales
from .roles import base_name, base_names, clean

__all__ = [
    "Base",
    "changed",
    "merged",
    "persistent_buffers",
    "record",
    "remember",
    "remembered",
    "restructured",
    "first_difference",
]

Base = dict[str, list]  # base name: [elements before packing, dtype, checksum]
_REMEMBERED: weakref.WeakKeyDictionary[nn.Module, Base] = weakref.WeakKeyDictionary()


def record(model: nn.Module) -> Base:
    """Return [elements before packing, dtype, checksum] of every parameter and persistent buffer of the base model.

    By base name; adapters on the model do not count, and tied tensors count once.
    """
    return {n: [math.prod(logical_shape(t)), str(t.dtype), checksum(t)] for n, t in _tensors(model).items()}


def changed(model: nn.Module, base: Base) -> dict[str, Tensor]:
    """Return the base tensors that differ from the record `base`, by live name: what has to be saved.

    These are unquantized parameters and persistent buffers. Weights trained as codes always differ, and are given as
    their codes with the constants; so do scales that are opened for training.
    """
    parameters = ((n, p.detach()) for n, p in model.named_parameters() if p.is_floating_point())
    live = [(n, t) for n, t in (*parameters, *persistent_buffers(model)) if base_name(n) in base]
    other = [(n, t) for n, t in live if codes_dtype(t) or base[base_name(n)][2] != checksum(t)]
    found = {name: x for n, t in other for name, x in plain(clean(n), t).items()}
    return found | {clean(n): x.detach() for n, _, x in scales(model)}


def merged(old: Base, new: Base) -> Base:
    """Return the entries of `old` for tensors that still have as many elements, and those of `new` for all others."""
    return {n: old[n] if n in old and old[n][0] == mark[0] else mark for n, mark in new.items()}


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


def restructured(model: nn.Module, base: Base) -> str | None:
    """Return a sentence on the first base tensor that was added, removed or resized since `base`, or None.

    No values are read.
    """
    live = {n: [math.prod(logical_shape(t)), "", None] for n, t in _tensors(model).items()}
    return first_difference(live, {n: [mark[0], "", None] for n, mark in base.items()})


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers of the base model, by base name."""
    own = set(base_names(model))
    parameters = {base_name(n): p for n, p in model.named_parameters() if base_name(n) in own}
    return parameters | {base_name(n): b for n, b in persistent_buffers(model)}


def persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of every buffer that `state_dict` holds."""
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


def remember(model: nn.Module, base: Base) -> None:
    """Keep the record `base` of a model that is unwrapped, for the next `wrap`: its weights may be trained ones."""
    _REMEMBERED[model] = base


def remembered(model: nn.Module) -> Base:
    """Return the record kept for a model, or for its base beneath adapters; empty if there is none."""
    return _REMEMBERED.get(model) or _REMEMBERED.get(bare(model)) or {}
