"""Copies of models without memory: of fake tensors, which compute shapes, or of tensors on the meta device."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ...core.contracts import PackedWeight
from ...core.storages import storage_id
from ...model.quantization.owners import layer_scheme, owner

__all__ = ["converted_", "copied", "empty", "tensors_of"]

Make = Callable[[Tensor], Tensor]


def converted_(model: nn.Module, make: Make) -> nn.Module:
    """Replace every tensor of a model by `make` of it, in place; ties and quantization constants stay."""
    new = _once(model, make, {})
    for module in model.modules():
        kinds: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
        for members in kinds:
            for name, tensor in list(members.items()):
                if isinstance(tensor, Tensor):
                    members[name] = new(tensor)
        _relink_(module, new)
    return model


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model, quantized or not, with every tensor on the meta device.

    Its `hybrid`, hooks of parameters and gradients stay behind.
    """
    known: dict[int, object] = {id(model.__dict__.get("hybrid")): None}
    new = _once(model, lambda x: empty(x, "meta"), known)
    for module in model.modules():
        for members in (module._parameters, module._buffers, vars(module)):
            for tensor in members.values():
                if isinstance(tensor, Tensor):
                    new(tensor)
        for tensor in _beside(module):
            new(tensor)
    result = copy.deepcopy(model, known)
    for module in result.modules():
        _relink_(module, lambda x: x)
    return result


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Return every tensor that a model keeps: parameters, buffers, quantization constants; some of them twice."""
    found: list[Tensor] = []
    for module in model.modules():
        found += [x for x in (*module._parameters.values(), *module._buffers.values()) if x is not None]
        found += _beside(module)
    return found


def empty(tensor: Tensor, device: str = "cpu") -> Tensor:
    """Return a tensor of the same shape, strides and dtype, without values."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def _once(model: nn.Module, make: Make, known: dict[int, object]) -> Make:
    """Return `make` for the model's tensors, called once for each; the results are noted in `known` by the old id.

    A tensor that shares a parameter's memory becomes the new parameter's; constants of quantized weights go along.
    """
    parameters = {storage_id(p): p for p in model.parameters() if not is_traceable_wrapper_subclass(p)}

    def new(tensor):
        if id(tensor) in known:
            return known[id(tensor)]
        memory = _memory(tensor)
        same = None if memory is None else parameters.get(memory)
        if same is not None and same is not tensor and (same.shape, same.dtype) == (tensor.shape, tensor.dtype):
            made = new(same).data
        else:
            made = _like(tensor, make)
            made = nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
        known[id(tensor)] = made
        scheme = owner(tensor) if isinstance(tensor, nn.Parameter) else None
        if scheme is not None and not isinstance(tensor, PackedWeight):  # on that nothing hangs
            scheme.carry_(tensor, made, new)
        return made

    return new


def _memory(tensor: Tensor) -> int | None:
    return None if is_traceable_wrapper_subclass(tensor) else storage_id(tensor)


def _like(tensor: Tensor, make: Make) -> Tensor:
    if not is_traceable_wrapper_subclass(tensor):
        return make(tensor)
    names, meta = tensor.__tensor_flatten__()
    inner = {name: make(getattr(tensor, name)) for name in names}
    return type(tensor).__tensor_unflatten__(inner, meta, tensor.shape, tensor.stride())


def _beside(module: nn.Module) -> Iterator[Tensor]:
    scheme = layer_scheme(module)
    yield from () if scheme is None else scheme.beside(module)


def _relink_(module: nn.Module, make: Make) -> None:
    scheme = layer_scheme(module)
    if scheme is not None:
        scheme.relink_(module, make)
