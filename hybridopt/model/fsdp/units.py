"""The units of FSDP2, modules that gather their parameters: seen without shards, and made of what comes later."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import HybridOptError
from .sharded_tensors import as_cut, class_of, is_sharded, rank_of, share_count, units, whole, write_
from .state import check_torch, drop, groups, states

__all__ = ["casts", "check_not_run", "empty_", "encode_", "fill_", "hooks_of_others", "move_", "of_own_classes_"]
__all__ += ["shard_added_", "take_out_"]

STATE = "__composable_api"  # what torch keeps in a module for `fully_shard`: names begin so
HOOKS = "torch.distributed.fsdp"


@contextmanager
def of_own_classes_(model: nn.Module) -> Iterator[None]:
    """Let the modules of a sharded model be of the classes that they were made of, for a while."""
    kinds = [(m, type(m)) for m in model.modules() if class_of(m) is not type(m)]
    for module, _ in kinds:
        module.__class__ = class_of(module)
    try:
        yield
    finally:
        for module, kind in kinds:
            module.__class__ = kind


@contextmanager
def empty_(model: nn.Module) -> Iterator[None]:
    """Let a sharded model be a plain one without memory for a while, which can be copied and be given adapters.

    Its sharded parameters are on the meta device, its modules of their own classes and without FSDP2's hooks. At the
    end all comes back into the modules where it was; what requires gradients then does so afterwards.
    """
    modules = list(model.modules())
    kept = [(m, {k: vars(m)[k] for k in list(vars(m)) if k.startswith(STATE)}) for m in modules]
    own = [h for m in modules for k, h in vars(m).items() if k.endswith("_hooks") and isinstance(h, dict) and h]
    hooks = [(h, OrderedDict(h)) for h in own]
    places: list[tuple[nn.Module, str, Any]] = [
        (m, n, p) for m in modules for n, p in m._parameters.items() if p is not None and is_sharded(p)
    ]
    known: dict[int, nn.Parameter] = {}
    for _, _, p in places:
        empty = nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), p.requires_grad)
        vars(known.setdefault(id(p), empty)).update(vars(p))  # such as what codes stand for
    for module, found in kept:
        for key in found:
            del vars(module)[key]
    for hook, all_ in hooks:
        for key in [key for key, each in all_.items() if _of_fsdp(each)]:
            del hook[key]
    for module, name, p in places:
        module._parameters[name] = known[id(p)]
    try:
        with of_own_classes_(model):
            yield
    finally:
        for module, name, p in places:
            module._parameters[name] = p.requires_grad_(known[id(p)].requires_grad)
        for hook, all_ in hooks:
            later = {key: each for key, each in hook.items() if key not in all_}
            hook.clear()
            hook.update(all_ | later)
        for module, found in kept:
            vars(module).update(found)


def check_not_run(model: nn.Module, what: str) -> None:
    """Raise HybridOptError if FSDP2 has begun to run a model: it takes up no units after that.

    Args:
        model: sharded or not.
        what: cannot be done with it.
    """
    check_torch(model, what)
    for name, module in units(model):
        if module._get_fsdp_state()._is_root is not None:
            raise HybridOptError(
                f"{what} cannot be put on a sharded model that has been called: FSDP2 takes up no more units at "
                f"{name or type(module).__name__!r}; load before the first forward pass"
            )


def shard_added_(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    """Shard the plain parameters of modules that were put into a sharded model, as the unit that they lie in is.

    Those of one unit are one unit: they are gathered together when the first of them is called.

    Args:
        model: the sharded model; not called yet.
        modules: by name, none of them within another.
    """
    from torch.distributed.fsdp import fully_shard

    there = dict(units(model))
    together: dict[int, tuple[Any, list[nn.Module]]] = {}
    for name, module in modules.items():
        unit = _above(there, name)
        together.setdefault(id(unit), (unit, []))[1].append(module)
    for unit, some in together.values():
        apart: Any = {p for module in some for p in module.parameters() if is_sharded(p) or not _is_float(p)}
        fully_shard(some, ignored_params=apart, **_as(unit, there))


def take_out_(model: nn.Module, module: nn.Module, member: str) -> None:
    """Make a sharded parameter a plain one, whole on every rank; its unit does not gather it any more.

    Args:
        model: the sharded model; not called yet. All ranks have to come here.
        module: in it, the only one that has the parameter.
        member: its name there.
    """
    for state, group, each in _gathered_of(model, module):
        if each._module_info.param_name == member:
            each._post_load_hook_handle.remove()
            group.fsdp_params.remove(each)
            if not group.fsdp_params:
                drop(state, group)
    p = module.get_parameter(member)
    module._parameters[member] = nn.Parameter(whole(p.detach()), p.requires_grad)


def encode_(model: nn.Module, module: nn.Module, member: str, weight: Any) -> None:
    """Put codes in the place of a sharded parameter: every rank keeps those of its rows, and its unit gathers them.

    Args:
        model: the sharded model; not called yet. All ranks have to come here.
        module: in it, that has the parameter.
        member: its name there.
        weight: a whole `CodedWeight`.
    """
    old: Any = module.get_parameter(member)
    shard = weight.shard(share_count(old), rank_of(old))
    module._parameters[member] = nn.Parameter(as_cut(shard, old), old.requires_grad)
    for _, _, each in _gathered_of(model, module):
        if each._module_info.param_name == member:
            each._sharded_param_data = shard  # else its memory is looked for, where codes have none of their own
            each.reset_sharded_param()
            each._init_extensions()


def move_(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Let units gather for another module the parameters that it has taken over, such as a bias.

    Args:
        model: the sharded model; not called yet.
        old: the module that had them.
        new: the one that has them.
    """
    for _, _, each in _gathered_of(model, old):
        each._post_load_hook_handle.remove()
        each._module_info.module = new
        each._post_load_hook_handle = new.register_load_state_dict_post_hook(_Reset(each))


class _Reset:
    """What FSDP2 does when values were loaded into a module."""

    __module__ = HOOKS

    def __init__(self, parameter: Any):
        self.parameter = parameter

    def __call__(self, *_: object) -> None:
        self.parameter.reset_sharded_param()


def casts(model: nn.Module) -> bool:
    """Return whether some unit gathers its parameters in another dtype (`MixedPrecisionPolicy`)."""
    check_torch(model, "sharded codes")
    return any(state._mp_policy.param_dtype is not None for state in states(model))


def hooks_of_others(module: nn.Module) -> bool:
    """Return whether a module has hooks beside those of FSDP2."""
    all_ = [each for key, each in vars(module).items() if key.endswith("_hooks") and isinstance(each, dict)]
    found = (hook for hooks in all_ for hook in hooks.values())
    return any(not _of_fsdp(hook) for hook in found)


def fill_(owner: nn.Module, member: str, values: Tensor, device: torch.device) -> None:
    """Give a sharded parameter without memory this rank's rows of a tensor that every rank has.

    Args:
        owner: the module that has it.
        member: its name there.
        values: the whole tensor.
        device: where shards rest.
    """
    rows = torch.empty_like(owner.get_parameter(member), device=device)
    write_(rows, values)
    owner.load_state_dict({member: rows}, strict=False, assign=True)  # so FSDP2 hears of it


def _above(there: dict[str, Any], name: str) -> Any:
    """Return the unit that gathers what lies in the module `name`: the next above it."""
    path = name.split(".")
    return next(u for n in range(len(path) - 1, -1, -1) if (u := there.get(".".join(path[:n]))) is not None)


def _as(unit: Any, there: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `fully_shard` with which a unit was made."""
    state = unit._get_fsdp_state()
    group = next(g for u in (unit, *there.values()) for g in groups(u._get_fsdp_state()))
    return {
        "mesh": group.mesh_info.mesh,
        "mp_policy": state._mp_policy,
        "offload_policy": group.offload_policy,
        "reshard_after_forward": group.post_forward_mesh_info is not None,
    }


def _gathered_of(model: nn.Module, module: nn.Module) -> list[tuple[Any, Any, Any]]:
    """Return the sharded parameters of a module as FSDP2 keeps them, with state and group of their unit."""
    found = [(state, group) for state in states(model) for group in groups(state)]
    return [(s, g, x) for s, g in found for x in list(g.fsdp_params) if x._module_info.module is module]


def _of_fsdp(hook: Any) -> bool:
    return str(hook.__module__).startswith(HOOKS)


def _is_float(p: Tensor) -> bool:
    return p.is_floating_point() or p.is_complex()
