"""What FSDP2 keeps of its units, by names that torch may change."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.torch_version import TorchVersion

from ...core.errors import HybridOptError
from .sharded_tensors import reshard_, units

__all__ = ["abandon_", "check_torch", "cuts_numbers", "drop", "groups", "states"]

NUMBERS = "2.13"  # the first torch that is known to shard numbers
GROUPS, GROUP = "_fsdp_param_groups", "_fsdp_param_group"  # of a state; older torch has the second, one or none
OF_PASS = ("_modules_to_run_forward", "_state_ctx", "_training_state")
OF_STATE = ("_is_root", "_mp_policy")
OF_GROUP = ("fsdp_params", "mesh_info", "offload_policy", "post_forward_mesh_info")
OF_PARAMETER = (
    "_init_extensions",
    "_module_info",
    "_post_load_hook_handle",
    "_sharded_param_data",
    "reset_sharded_param",
)


def cuts_numbers() -> bool:
    """Return whether this torch can shard parameters that are no floats: older ones let all of them require gradients.

    Known of 2.13; 2.11 cannot.
    """
    return TorchVersion(torch.__version__) >= NUMBERS


def states(model: nn.Module) -> list[Any]:
    """Return what FSDP2 keeps of every unit; several modules may make up one."""
    return list({id(state): state for _, unit in units(model) if (state := unit._get_fsdp_state())}.values())


def groups(state: Any) -> list[Any]:
    """Return the groups of parameters that a unit gathers."""
    found = vars(state)[GROUPS] if GROUPS in vars(state) else [state._fsdp_param_group]
    return [group for group in found if group is not None]


def drop(state: Any, group: Any) -> None:
    """Let a unit forget a group."""
    if GROUPS in vars(state):
        vars(state)[GROUPS].remove(group)
    else:
        state._fsdp_param_group = None


def abandon_(model: nn.Module) -> None:
    """Let FSDP2 forget a forward pass that an error has ended: it would go on with it in the next."""
    inner: set[nn.Module] = set()
    for _, unit in units(model):
        if unit not in inner:
            inner |= set(unit.modules())
            if hasattr(unit, "reset_iter_state"):
                unit.reset_iter_state()
            else:
                _forget_pass(model)
    reshard_(model)


def _forget_pass(model: nn.Module) -> None:
    """Do what `reset_iter_state` does in torch that has none, such as 2.11; nothing where it keeps other names."""
    found = states(model)
    if any(True for state in found for _ in _not_of(state, OF_PASS)):
        return
    for state in found:
        idle = type(state._training_state).IDLE
        state._training_state, state._state_ctx.iter_forward_root = idle, None
        state._modules_to_run_forward.clear()
        for group in groups(state):
            group._training_state = idle


def check_torch(model: nn.Module, what: str) -> None:
    """Raise HybridOptError where torch keeps the units of a model otherwise than is known here.

    Args:
        model: sharded or not.
        what: cannot be done with it.
    """
    missing = next(_missing(model), None)
    if missing is not None:
        raise HybridOptError(
            f"{what} cannot be put on a model that torch {torch.__version__} has sharded, as its FSDP2 has no "
            f"{missing!r}: load onto the plain model, and shard it afterwards, or take torch 2.13"
        )


def _missing(model: nn.Module) -> Iterator[str]:
    for _, unit in units(model):
        yield from _not_of(unit, ("_get_fsdp_state",))
        state = unit._get_fsdp_state()
        yield from _not_of(state, (*OF_STATE, GROUPS if GROUPS in vars(state) else GROUP))
        for group in groups(state):
            yield from _not_of(group, OF_GROUP)
            for parameter in group.fsdp_params:
                yield from _not_of(parameter, OF_PARAMETER)


def _not_of(kept: Any, names: Iterable[str]) -> Iterator[str]:
    there = dir(kept)
    return (name for name in names if name not in there)
