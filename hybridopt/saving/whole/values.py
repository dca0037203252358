"""The tensors of a live model as plain floats, each made when it is asked for: what is kept as codes, too."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.contracts import PackedWeight, Scheme
from ...core.errors import HybridOptError
from ...model.base_record import persistent_buffers
from ...model.fsdp.sharded_tensors import coded, is_sharded
from ...model.quantization.owners import layer_scheme
from ...model.roles import clean
from ..ranks import Whole

__all__ = ["Value", "values"]


@dataclass(frozen=True)
class Value:
    """A tensor of a model.

    Args:
        names: of the tensor in the model, several where weights are tied.
        shape: of its values.
        dtype: of its values.
        make: returns them.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


def values(model: Any, dtype: torch.dtype, whole: Whole) -> list[Value]:
    """Return every parameter and persistent buffer of a model, tied ones together, in the model's order.

    Args:
        model: a transformers model without adapters.
        dtype: of what is made of codes that do not know their own.
        whole: returns a sharded tensor in one piece.

    Raises:
        HybridOptError: for a weight whose values are not known here.
    """
    names: dict[int, list[str]] = {}
    tensors: dict[int, tuple[nn.Module, Tensor]] = {}
    for name, module, tensor in _tensors(model):
        names.setdefault(id(tensor), []).append(clean(name))
        tensors.setdefault(id(tensor), (module, tensor))
    turned = _turned(model) if any(layer_scheme(module) for module in model.modules()) else set()
    return [_value(tuple(names[key]), *tensors[key], dtype, whole, turned) for key in names]


def _tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        for member, p in module._parameters.items():
            if p is not None:
                yield f"{prefix}.{member}".lstrip("."), module, p
    holders = dict(model.named_modules(remove_duplicate=False))
    for name, buffer in persistent_buffers(model):
        yield name, holders[name.rpartition(".")[0]], buffer


def _value(names: tuple[str, ...], module: Any, x: Any, dtype: torch.dtype, whole: Whole, turned: set[str]) -> Value:
    if isinstance(x, PackedWeight):
        return Value(names, tuple(x.shape), x.dtype, lambda: x.detach().dequantize())
    if coded(x) is not None:
        return Value(names, tuple(x.shape), x.dtype, lambda: whole(x.detach()).dequantize())
    scheme = layer_scheme(module) if module._parameters.get("weight") is x else None
    if scheme is not None and not scheme.trains:
        return _of_layer(names, module, scheme, dtype, whole, names[0] in turned)
    if hasattr(x, "__tensor_flatten__") and not is_sharded(x):
        raise HybridOptError(
            f"{names[0]!r} is kept as {type(x).__name__}, whose values are not known here; turn it into floats first"
        )
    return Value(names, tuple(x.shape), x.dtype, lambda: whole(x.detach()))


def _of_layer(
    names: tuple[str, ...], layer: Any, scheme: Scheme, dtype: torch.dtype, whole: Whole, turned: bool
) -> Value:
    shape = scheme.shape(layer.weight)

    def make() -> Tensor:
        found = scheme.values(_in_one_piece(layer, whole), dtype)
        return found.t() if turned else found

    return Value(names, tuple(reversed(shape)) if turned else shape, dtype, make)


def _in_one_piece(layer: Any, whole: Whole) -> Any:
    """Return a layer, or where its codes are sharded a shallow copy that has all of them."""
    codes = layer.weight
    if not is_sharded(codes):
        return layer
    weight = nn.Parameter(whole(codes.detach()), requires_grad=False)
    vars(weight).update(vars(codes))
    copied = copy.copy(layer)
    copied._parameters = layer._parameters | {"weight": weight}
    return copied


def _turned(model: Any) -> set[str]:
    """Return the names of the weights that the model's class keeps as [in, out] (Conv1D), quantized as [out, in]."""
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        plain = type(model)._from_config(model.config)
    return {f"{name}.weight" for name, module in plain.named_modules() if type(module) is Conv1D}
