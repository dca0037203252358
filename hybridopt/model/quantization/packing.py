"""Weights that become codes in their own modules, and what a state dict holds of them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...core.contracts import PackedWeight, Scheme
from ..fsdp.coded_shards import shard_of
from ..fsdp.sharded_tensors import as_cut, coded, codes_of, is_sharded, local
from .coded import plain

__all__ = ["hook_", "pack_", "unhook_", "unpack_"]


def pack_(owner: nn.Module, member: str, scheme: Scheme, kept: Mapping[str, Tensor] | None = None) -> None:
    """Put codes in the place of a weight of a module, under the same name; they require gradients if it did.

    A state dict then holds plain tensors ("weight.codes" and the constants) and is taken back with them, or with a
    float weight where codes can be written.

    Args:
        owner: the module that has the weight.
        member: name of the weight in it.
        scheme: what the weight is kept by; a frozen one leaves no gradient.
        kept: codes and constants that it was made of before, by name; None: they are made of its values.
    """
    old = owner.get_parameter(member)
    packed = scheme.pack(old) if kept is None else scheme.pack(old.detach().to("meta")).of(dict(kept))
    setattr(owner, member, nn.Parameter(packed, old.requires_grad and scheme.trains))
    hook_(owner)


def hook_(owner: nn.Module) -> None:
    """Let the state dict of a module hold plain tensors in the place of codes; once is enough."""
    if not any(_own(hook) is _unfold for hook in owner._state_dict_hooks.values()):
        owner.register_state_dict_post_hook(_unfold)
        owner.register_load_state_dict_pre_hook(_fold)


def unpack_(owner: nn.Module, member: str) -> None:
    """Turn the codes of a weight back into a float parameter of the weight's dtype.

    The old parameter stops requiring gradients, so that an optimizer that still holds it says so.

    Args:
        owner: the module that has the weight.
        member: name of the weight in it.
    """
    old: Any = owner.get_parameter(member)
    setattr(owner, member, nn.Parameter(old.detach().dequantize(), old.requires_grad))
    old.requires_grad_(False)
    if not _packed(owner):
        unhook_(owner)


def unhook_(owner: nn.Module) -> None:
    """Let the state dict of a module be what torch makes it."""
    for hooks in (owner._state_dict_hooks, owner._load_state_dict_pre_hooks):
        for key in [key for key, hook in hooks.items() if _own(hook) in (_unfold, _fold)]:
            del hooks[key]


def _own(hook: Any) -> Any:
    return getattr(hook, "hook", hook)  # torch wraps some


def _packed(owner: nn.Module) -> dict[str, Any]:
    members = owner._parameters.items()
    return {name: p for name, p in members if isinstance(p, PackedWeight) or coded(p) is not None}


def _unfold(owner: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Put codes and constants into a state dict instead of weights that are no plain tensors."""
    for name in _packed(owner):
        weight = state.pop(f"{prefix}{name}", None)
        if weight is None:
            continue
        state |= plain(f"{prefix}{name}", weight)
        if is_sharded(weight):  # torch.distributed.checkpoint looks for what names lead to
            vars(owner._parameters[name]).update(codes_of(weight).parts())


def _fold(owner: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Put weights into a state dict instead of their codes and constants."""
    for name, weight in _packed(owner).items():
        parts = {part: state.pop(f"{prefix}{name}.{part}", None) for part in local(weight).parts()}
        given, values = {part: x for part, x in parts.items() if x is not None}, state.get(f"{prefix}{name}")
        sharded = is_sharded(weight)
        read = shard_of(weight, given, values) if sharded else weight.read(given, values)
        if read is not None:
            state[f"{prefix}{name}"] = as_cut(read, weight) if sharded else read
