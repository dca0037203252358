"""Frozen quantized weights that somebody has changed: merged adapters, weights written by hand or loaded."""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.contracts import PackedWeight, Scheme
from ..core.errors import HybridOptError
from .deferred_checksums import checksum_or_later
from .quantization.frozen_weight import FrozenWeight
from .quantization.layers import is_linear
from .quantization.owners import layer_scheme, owner
from .roles import base_name, clean

__all__ = [
    "Codes",
    "changed_codes",
    "check_codes",
    "codes_record",
    "expected",
    "layer_of_kept",
    "restore_",
    "unknown",
    "updated",
]

MARK = ".weight.kept."  # between the name of a layer and that of a part, in saved files
Codes = dict[str, dict[str, list]]  # by the base name of a layer, and of a part: [shape, dtype, checksum]
CHANGED_SIDES = {
    True: "{name} was quantized since the model was wrapped, and would not be when it is loaded; take "
    "model.hybrid.unwrap(), then wrap the model as it is now",
    False: "{name} was quantized when the model was wrapped, and is not any more; what is saved would fit no base "
    "model. Take model.hybrid.unwrap(), then wrap the model as it is now, or save it in full precision",
}


def codes_record(model: nn.Module) -> Codes:
    """Return shape, dtype and checksum of all that the frozen quantized weights of a model consist of."""
    return {each.base: _marks(each.kept()) for each in _frozen(model)}


def updated(old: Codes, new: Codes) -> Codes:
    """Return a new record in which what was known already counts, of every layer that is still quantized alike."""
    return {
        n: marks | {p: old[n][p] for p in marks if p in old[n]} if _alike(old.get(n), marks) else marks
        for n, marks in new.items()
    }


def unknown(codes: Codes, weights: Collection[str]) -> Codes:
    """Return a record in which the values of some weights are of no base, so that they are always saved.

    Args:
        codes: what quantized weights are made of.
        weights: base names of weights.
    """
    return {
        n: {p: [*mark[:2], None] for p, mark in marks.items()} if not {n, f"{n}.weight"}.isdisjoint(weights) else marks
        for n, marks in codes.items()
    }


def _alike(old: Mapping[str, list] | None, new: Mapping[str, list]) -> bool:
    """Is the form of two quantized weights the same, but for parts that one of them lacks?"""
    return old is not None and all(old[p][0] == mark[0] for p, mark in new.items() if p in old)


def changed_codes(model: nn.Module, codes: Codes) -> dict[str, Tensor]:
    """Return all parts of every frozen quantized weight that differs from its record, by live name."""
    return {
        f"{each.name}{MARK}{part}": x.detach()
        for each in _frozen(model)
        if _marks(kept := each.kept()) != codes.get(each.base)
        for part, x in kept.items()
    }


def check_codes(model: nn.Module, codes: Codes) -> None:
    """Raise HybridOptError for quantized weights that would not be quantized so after loading.

    Args:
        model: live.
        codes: the record of its quantized weights.
    """
    live = {each.base: _forms(_marks(each.kept(), values=False)) for each in _frozen(model)}
    for base in sorted(live.keys() ^ codes.keys()):
        raise HybridOptError(CHANGED_SIDES[base in live].format(name=base))
    for base, now in live.items():
        was = _forms(codes[base])
        if part := next((p for p in sorted(was.keys() | now.keys()) if was.get(p) != now.get(p)), None):
            raise HybridOptError(
                f"{base}.weight was quantized anew in another form since the model was wrapped (its {part} is "
                f"{now.get(part)} and was {was.get(part)}), and could not be loaded; quantize it as it was, or take "
                "model.hybrid.unwrap() and wrap the model as it is now"
            )


def expected(
    model: nn.Module, scheme: Scheme | None, layers: Iterable[str], opened: Iterable[str]
) -> dict[str, Tensor]:
    """Return what `changed_codes` may have saved of some layers of a base model, by base name.

    Args:
        model: quantized already, or about to be.
        scheme: that it is going to be quantized with; None: it is quantized.
        layers: base names of the layers.
        opened: base names of layers whose scales are going to be parameters.
    """
    live: dict[str, Any] = {base_name(f"{n}.weight").removesuffix(".weight"): m for n, m in model.named_modules() if n}
    weights = {base_name(clean(n)).removesuffix(".weight"): p for n, p in model.named_parameters()}
    opened = set(opened)
    found: dict[str, Tensor] = {}
    for base in layers:
        packed = _packed(weights.get(base), live.get(base), scheme)
        kept = _expected(live.get(base), scheme, base in opened) if packed is None else packed.parts()
        found |= {f"{base}{MARK}{part}": x for part, x in kept.items()}
    return found


def _expected(layer: Any, scheme: Scheme | None, opened: bool) -> dict[str, Tensor]:
    """Return what a layer keeps once it is quantized; nothing for what is not going to be, or is not there."""
    own = None if layer is None else layer_scheme(layer)
    if own is not None:
        scheme = own
        if opened and not own.scales(layer):
            layer = copy.deepcopy(layer)
    elif layer is None or scheme is None or not is_linear(layer):
        return {}
    else:
        layer = scheme.twin(layer)
    if opened:
        scheme.open_scales_(layer)
    return scheme.kept(layer)


def _packed(weight: Tensor | None, layer: nn.Module | None, scheme: Scheme | None) -> PackedWeight | None:
    """Return the weight of a module that computes with it by itself, packed or as it will be; None for others."""
    if isinstance(weight, PackedWeight):
        return weight
    whole = layer is None or not is_linear(layer)
    takes = weight is not None and whole and owner(weight) is None and scheme is not None and scheme.packs(weight)
    return scheme.pack(weight.detach().to("meta")) if takes else None  # type: ignore[union-attr]  # both are there


def layer_of_kept(name: str) -> str | None:
    """Return the layer that a saved tensor is a part of, if `changed_codes` has named it; None for others."""
    layer, mark, _ = name.partition(MARK)
    return layer if mark else None


def restore_(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Bring back the quantized weights that `changed_codes` has returned; `saved` may hold other tensors, too."""
    wanted: dict[str, dict[str, Tensor]] = {}
    for name, x in saved.items():
        if layer := layer_of_kept(base_name(name)):
            wanted.setdefault(layer, {})[name.partition(MARK)[2]] = x
    for each in _frozen(model) if wanted else ():
        if each.base in wanted:
            each.restore_(wanted[each.base])


@dataclass(frozen=True)
class _Weight:
    """A frozen quantized weight.

    Args:
        base: its base name, without ".weight".
        name: its live name, without ".weight".
        kept: returns all that it consists of, by name.
        restore_: writes that.
    """

    base: str
    name: str
    kept: Callable[[], dict[str, Tensor]]
    restore_: Callable[[Mapping[str, Tensor]], object]


def _frozen(model: nn.Module) -> Iterator[_Weight]:
    """Yield the frozen quantized weights of layers, and those of modules that compute with them by themselves."""
    for path, module in model.named_modules():
        for member, weight in module._parameters.items():
            name = clean(f"{path}.{member}")
            names = base_name(name).removesuffix(".weight"), name.removesuffix(".weight")
            if isinstance(weight, FrozenWeight):
                yield _Weight(*names, weight.parts, partial(_write, weight))
            elif member == "weight" and (scheme := layer_scheme(module)) is not None and not scheme.trains:
                yield _Weight(*names, partial(scheme.kept, module), partial(scheme.restore_, module))


def _write(weight: FrozenWeight, parts: Mapping[str, Tensor]) -> None:
    own = weight.parts()
    with torch.no_grad():
        for name, x in parts.items():
            own[name].copy_(x)


def _forms(marks: Mapping[str, list]) -> dict[str, list]:
    """Return shapes and dtypes of a record without what stands for a dtype that may change."""
    return {part: mark[:2] for part, mark in marks.items() if mark[0] != [0]}


def _marks(kept: Mapping[str, Tensor], values: bool = True) -> dict[str, list]:
    """Return [shape, dtype, checksum] of tensors by name; with `values` False no checksum is worked out."""
    return {
        n: [list(x.shape), str(x.dtype), checksum_or_later(x) if values and x.numel() else 0] for n, x in kept.items()
    }
