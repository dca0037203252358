"""Copies of models without memory: of fake tensors, which compute shapes, or of tensors on the meta device."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

__all__ = ["converted_", "copied", "empty", "tensors_of"]

Make = Callable[[Tensor], Tensor]
BESIDE = ("CB", "SCB")  # what bitsandbytes hangs on 8-bit parameters


def converted_(model: nn.Module, make: Make) -> nn.Module:
    """Replace every tensor of a model by `make` of it, in place; ties and quantization constants stay."""
    new = _once(model, make, {})
    for module in model.modules():
        for members in _members(module):
            for name, tensor in list(members.items()):
                if isinstance(tensor, Tensor):
                    members[name] = new(tensor)
        state = getattr(module, "state", None)
        for name in BESIDE:
            if isinstance(getattr(state, name, None), Tensor):
                setattr(state, name, new(getattr(state, name)))
        if hasattr(module, "quant_state"):
            vars(module)["quant_state"] = _quant_state(module.weight)
    return model


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model, quantized or not, with every tensor on the meta device.

    Its `hybrid`, hooks of parameters and gradients stay behind.
    """
    known: dict[int, Any] = {id(model.__dict__.get("hybrid")): None}
    new = _once(model, lambda x: empty(x, "meta"), known)
    for module in model.modules():
        for members in (*_members(module), vars(getattr(module, "state", object))):
            for tensor in members.values():
                if isinstance(tensor, Tensor):
                    new(tensor)
        weight = module._parameters.get("weight")
        if weight is not None and _quant_state(weight) is not None:
            known[id(_quant_state(weight))] = _quant_state(new(weight))
    return copy.deepcopy(model, known)


def _members(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers, vars(module)


def _quant_state(tensor: object) -> Any:
    """Return bitsandbytes' QuantState of a 4-bit parameter; None for any other tensor."""
    return getattr(tensor, "quant_state", None)


def _once(model: nn.Module, make: Make, known: dict[int, Any]) -> Make:
    """Return `make` for the model's tensors, called once for each; the results are noted in `known` by the old id."""

    def new(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            known[id(tensor)] = _new(tensor, make, new)
        return known[id(tensor)]

    for module in model.modules():
        codes = _codes(module)
        if codes is not None:
            known[id(codes)] = new(module.get_parameter("weight")).data
    return new


def _codes(module: nn.Module) -> Tensor | None:
    """Return the codes that an 8-bit layer of bitsandbytes keeps besides its weight, if they are the weight."""
    codes, weight = getattr(getattr(module, "state", None), "CB", None), module._parameters.get("weight")
    kind = None if weight is None else (weight.dtype, weight.shape)
    return codes if isinstance(codes, Tensor) and (codes.dtype, codes.shape) == kind else None


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Return every tensor that a model keeps: parameters, buffers, quantization constants; some of them twice."""
    found: list[Tensor] = []
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                found += [tensor, *_beside(tensor)]
        state = getattr(module, "state", None)
        found += [x for name in BESIDE if isinstance(x := getattr(state, name, None), Tensor)]
    return found


def _new(tensor: Tensor, make: Make, new: Make) -> Tensor:
    out = _like(tensor, make)
    if not isinstance(tensor, nn.Parameter):
        return out
    out = nn.Parameter(out, tensor.requires_grad)
    for name in BESIDE:
        beside = getattr(tensor, name, None)
        if isinstance(beside, Tensor):  # codes are the weight itself
            setattr(out, name, out.data if beside.shape == tensor.shape else new(beside))
        elif hasattr(tensor, name):
            setattr(out, name, None)
    if _quant_state(tensor) is not None:
        vars(out)["quant_state"] = _state(_quant_state(tensor), new)
    return out


def _like(tensor: Tensor, make: Make) -> Tensor:
    if not is_traceable_wrapper_subclass(tensor):
        return make(tensor)
    names, meta = tensor.__tensor_flatten__()
    inner = {name: make(getattr(tensor, name)) for name in names}
    return type(tensor).__tensor_unflatten__(inner, meta, tensor.shape, tensor.stride())


def _state(state: Any, new: Make) -> Any:
    """Return a QuantState whose tensors are replaced by `new` of them."""
    from bitsandbytes.functional import QuantState

    members = {name: getattr(state, name) for name in ("shape", "blocksize", "quant_type", "dtype")}
    for name in ("absmax", "code", "offset"):
        members[name] = None if getattr(state, name) is None else new(getattr(state, name))
    inner = None if state.state2 is None else _state(state.state2, new)
    return QuantState(**members, state2=inner)


def _beside(tensor: Tensor) -> list[Tensor]:
    found = [x for name in BESIDE if isinstance(x := getattr(tensor, name, None), Tensor)]
    state = _quant_state(tensor)
    while state is not None:
        found += [x for x in (state.absmax, state.code, state.offset) if x is not None]
        state = state.state2
    return found


def empty(tensor: Tensor, device: str = "cpu") -> Tensor:
    """Return a tensor of the same shape, strides and dtype, without values."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
