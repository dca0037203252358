"""Models on meta as models of fake tensors, which compute shapes and take no memory."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

__all__ = ["converted_", "copied", "empty", "tensors_of"]

BESIDE = ("CB", "SCB")  # what bitsandbytes hangs on 8-bit parameters


def converted_(model: nn.Module, make: Callable[[Tensor], Tensor]) -> nn.Module:
    """The model with every tensor replaced in place; ties stay, and so do quantization constants."""
    new = _once(model, make, {})
    for module in model.modules():
        for members in (module._parameters, module._buffers, vars(module)):
            for name, tensor in list(members.items()):
                if isinstance(tensor, Tensor):
                    members[name] = new(tensor)
        state = getattr(module, "state", None)
        for name in BESIDE:
            if isinstance(getattr(state, name, None), Tensor):
                setattr(state, name, new(getattr(state, name)))
        if hasattr(module, "quant_state"):
            module.quant_state = getattr(module.weight, "quant_state", None)
    return model


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model, quantized or not, with every tensor on meta; its `hybrid`, hooks of parameters and gradients
    stay behind."""
    known: dict[int, object] = {id(model.__dict__.get("hybrid")): None}
    new = _once(model, lambda x: empty(x, "meta"), known)
    for module in model.modules():
        for members in (module._parameters, module._buffers, vars(module), vars(getattr(module, "state", object))):
            for tensor in members.values():
                if isinstance(tensor, Tensor):
                    new(tensor)
        state = getattr(module._parameters.get("weight"), "quant_state", None)
        if state is not None:
            known[id(state)] = new(module.weight).quant_state
    return copy.deepcopy(model, known)


def _once(model, make, known: dict[int, object]) -> Callable[[Tensor], Tensor]:
    """Makes each of a model's tensors anew once, and notes it in `known` by the old one's id."""

    def new(tensor):
        if id(tensor) not in known:
            known[id(tensor)] = _new(tensor, make, new)
        return known[id(tensor)]

    for module in model.modules():
        codes = _codes(module)
        if codes is not None:
            known[id(codes)] = new(module.weight).data
    return new


def _codes(module: nn.Module) -> Tensor | None:
    """The codes that an 8-bit layer of bitsandbytes keeps beside its weight, and which are the weight."""
    codes, weight = getattr(getattr(module, "state", None), "CB", None), module._parameters.get("weight")
    same = isinstance(codes, Tensor) and weight is not None and codes.dtype == weight.dtype
    return codes if same and codes.shape == weight.shape else None


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Every tensor that a model keeps: parameters, buffers, quantization constants."""
    found: list[Tensor] = []
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                found += [tensor, *_beside(tensor)]
        state = getattr(module, "state", None)
        found += [x for name in BESIDE if isinstance(x := getattr(state, name, None), Tensor)]
    return found


def _new(tensor, make, new):
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
    if getattr(tensor, "quant_state", None) is not None:
        out.quant_state = _state(tensor.quant_state, new)
    return out


def _like(tensor, make):
    if not is_traceable_wrapper_subclass(tensor):
        return make(tensor)
    names, meta = tensor.__tensor_flatten__()
    inner = {name: make(getattr(tensor, name)) for name in names}
    return type(tensor).__tensor_unflatten__(inner, meta, tensor.shape, tensor.stride())


def _state(state, new):
    from bitsandbytes.functional import QuantState

    members = {name: getattr(state, name) for name in ("shape", "blocksize", "quant_type", "dtype")}
    for name in ("absmax", "code", "offset"):
        members[name] = None if getattr(state, name) is None else new(getattr(state, name))
    inner = None if state.state2 is None else _state(state.state2, new)
    return QuantState(**members, state2=inner)


def _beside(tensor):
    found = [x for name in BESIDE if isinstance(x := getattr(tensor, name, None), Tensor)]
    state = getattr(tensor, "quant_state", None)
    while state is not None:
        found += [x for x in (state.absmax, state.code, state.offset) if x is not None]
        state = state.state2
    return found


def empty(tensor: Tensor, device: str = "cpu") -> Tensor:
    """A tensor of the same shape, strides and dtype, without values."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
