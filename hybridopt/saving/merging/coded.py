"""Weights that were saved as codes, as trained scales, or as both: the floats that they stand for."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.contracts import Scheme
from ...core.errors import HybridOptError
from ...model.changed_codes import expected, layer_of_kept
from ...model.loading.weight_files import Stored, read
from ...model.quantization.layers import is_linear, matrix_shape
from ...model.quantization.scheme_names import named
from ..names import CONFIG, DELTA

__all__ = ["Coded", "coded_weights"]

Base = Callable[[str], Tensor]  # the name of a tensor to its value in the base
Parts = dict[str, Stored]


def coded_weights(
    model: nn.Module, delta: Mapping[str, Stored], config: Mapping[str, Any]
) -> tuple[dict[str, Stored], dict[str, "Coded"]]:
    """Return the saved tensors that are whole ones of a model, and the weights that others are parts of, by name.

    Args:
        model: without memory, in floats.
        delta: where the changed tensors lie, by base name.
        config: of the saved folder.

    Raises:
        HybridOptError: for what is part of no weight of the model, and for a weight some of whose parts are missing.
    """
    state = model.state_dict()
    whole = {name: entry for name, entry in delta.items() if name in state}
    kept: dict[str, Parts] = {}
    others: dict[str, Parts] = {}
    for name, entry in delta.items():
        if name in whole:
            continue
        weight, part, found = _part(name, state), name, others
        if layer := layer_of_kept(name):
            weight, part, found = _weight(layer, state), name.removeprefix(f"{layer}.weight.kept."), kept
        elif weight is not None:
            part = name.removeprefix(f"{weight}.")
        if weight is None or config["quantization"] is None:
            raise HybridOptError(
                f"{DELTA} holds {name!r}, which is a part of a weight that the base has not, or that {CONFIG} does "
                "not call quantized; give the base that it was trained on, or save again"
            )
        found.setdefault(weight, {})[part] = entry
    if not kept and not others:
        return whole, {}
    scheme, dtype = named(config["quantization"], CONFIG), _dtype(config)
    made = {n: Coded(model, scheme, n, dtype, kept.get(n), others.get(n, {})) for n in sorted({*kept, *others})}
    for each in made.values():
        each.check()
    return whole, made


@dataclass(frozen=True)
class Coded:
    """A weight that training has changed while it was kept as codes.

    Args:
        model: without memory, in floats.
        scheme: that kept it.
        name: of the weight in the model.
        dtype: in which training has computed with it.
        kept: where the parts of a frozen weight lie, if its codes were changed; None: they are those of the base.
        others: where trained codes, or scales, lie.
    """

    model: nn.Module
    scheme: Scheme
    name: str
    dtype: torch.dtype
    kept: Parts | None
    others: Parts

    def check(self) -> None:
        """Raise HybridOptError unless all parts are there, as the scheme makes them of this weight."""
        wanted, there = self._wanted(), dict(self.others)
        if not self.scheme.trains and self.kept is not None:
            there |= self.kept
        for part in sorted(wanted.keys() | there.keys()):
            x, entry = wanted.get(part), there.get(part)
            stands = entry is not None and entry.shape == (0,) and entry.dtype.is_floating_point  # for a dtype
            if x is None or entry is None or (entry.shape, entry.dtype) != (tuple(x.shape), x.dtype) and not stands:
                raise HybridOptError(
                    f"{DELTA}: {part!r} of {self.name!r} is {_described(entry)}, and {self.scheme.name} makes it "
                    f"{'nothing of that name' if x is None else f'{x.dtype} {list(x.shape)}'}; load it in Python "
                    "(hybridopt.from_pretrained) and save it with model.hybrid.save_pretrained(folder, full=True)"
                )

    def value(self, base: Base) -> Tensor:
        """Return the floats that training has computed with, in the shape that the model has them in."""
        shape = tuple(self.model.get_parameter(self.name).shape)
        own = {part: read(entry) for part, entry in self.others.items()}
        if self.scheme.trains:
            empty = torch.empty(shape, dtype=self.dtype, device="meta")
            return self.scheme.pack(empty).of(own).dequantize()
        if self.kept is None:
            parts = self._quantized(base) | own
        else:
            parts = {part: read(entry) for part, entry in self.kept.items() if entry.shape != (0,)} | own
        layer = self._layer()
        if layer is None:
            return self.scheme.unpack(parts, 0, shape, self.dtype)
        found = self.scheme.unpack(parts, 0, matrix_shape(layer), self.dtype)
        return found if type(layer) is nn.Linear else found.t()

    def _wanted(self) -> Mapping[str, Tensor]:
        """Return, without values, what the scheme makes of the weight of what has been saved."""
        weight = self.model.get_parameter(self.name)
        empty = torch.empty(weight.shape, dtype=self.dtype, device="meta")
        if self.scheme.trains:
            return self.scheme.pack(empty).parts()
        layer = self._layer()
        shape = tuple(weight.shape) if layer is None else matrix_shape(layer)
        scales = self.scheme.scale_shapes(shape) if self.others else {}
        wanted = {part: torch.empty(own, device="meta") for part, own in scales.items()}
        if self.kept is not None:
            base = self.name.removesuffix(".weight")
            found = expected(self.model, self.scheme, [base], [base] if self.others else [])
            wanted |= {name.removeprefix(f"{base}.weight.kept."): x for name, x in found.items()}
        return wanted

    def _quantized(self, base: Base) -> dict[str, Tensor]:
        """Return the parts that the scheme makes of the weight of the base, its scales opened."""
        layer: Any = copy.copy(self._layer())
        values = base(self.name).to(self.dtype)
        layer._parameters = {"weight": nn.Parameter(values, requires_grad=False), "bias": None}
        made: Any = self.scheme.quantize(layer)
        self.scheme.open_scales_(made)
        return self.scheme.parts(made.weight, made)

    def _layer(self) -> Any:
        """Return the linear layer that the weight is of; None for a module that computes with it by itself."""
        path, _, member = self.name.rpartition(".")
        module = self.model.get_submodule(path)
        return module if member == "weight" and is_linear(module) else None


def _dtype(config: Mapping[str, Any]) -> torch.dtype:
    found = getattr(torch, str(config["dtype"]), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise HybridOptError(f"{CONFIG}: dtype={config['dtype']!r} is no dtype of weights")
    return found


def _weight(layer: str, state: Mapping[str, Tensor]) -> str | None:
    return next((name for name in (f"{layer}.weight", layer) if name in state), None)


def _part(name: str, state: Mapping[str, Tensor]) -> str | None:
    """Return the weight that a saved tensor is a part of; None for no weight of the model."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in state:
            return name
    return None


def _described(entry: Stored | None) -> str:
    return "missing" if entry is None else f"{entry.dtype} {list(entry.shape)}"
