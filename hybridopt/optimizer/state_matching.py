"""Matching a saved optimizer state to a live optimizer: by name, exactly, or not at all."""

from collections.abc import Callable

from torch import Tensor

from ..core.errors import HybridOptError, check_count
from ..policy.job import Job, declare

__all__ = ["complete", "match"]


def complete(saved: dict) -> None:
    """Give every parameter of a state dict an entry, empty where it has no state."""
    for index in [i for group in saved["param_groups"] for i in group["params"]]:
        saved["state"].setdefault(index, {})


def match(live: list[dict], job_at: Callable[..., Job], saved: dict, found: dict) -> dict:
    """Bring a saved state dict into the order of the live groups and parameters.

    Args:
        live: the optimizer's param groups.
        job_at: called with (group, name, parameter, window); returns the Job, which says what the parameter keeps.
        saved: the state dict, as `state_dict()` returned it.
        found: is filled with the saved state, by live parameter.

    Returns:
        The state dict without state, for torch to load.

    Raises:
        HybridOptError: for parameters, shapes, dtypes or treatments that differ, naming them.
    """
    for key, kind in (("param_groups", list), ("state", dict)):
        if not isinstance(saved.get(key), kind):
            raise HybridOptError(f"the saved state has no {key!r}; give what state_dict() returned")
    groups = [_group(mine, saved["param_groups"]) for mine in live]
    if len(groups) != len(saved["param_groups"]):
        extra = [g.get("param_names") for g in saved["param_groups"] if g not in groups]
        raise HybridOptError(f"the saved state has parameters that this optimizer lacks: {extra}")
    states = {}
    for mine, theirs in zip(live, groups, strict=True):
        ids = dict(zip(theirs["param_names"], theirs["params"], strict=True))
        for name, p in zip(mine["param_names"], mine["params"], strict=True):
            if saved["state"].get(ids[name]):
                states[p] = _state(job_at, theirs, name, p, saved["state"][ids[name]])
    found.update(states)
    return {"state": {}, "param_groups": [_ordered(m, t) for m, t in zip(live, groups, strict=True)]}


def _group(mine, groups):
    names = set(mine["param_names"])
    for group in groups:
        theirs = set(group.get("param_names", ()))
        if not names & theirs:
            continue
        if names != theirs:
            odd = sorted(names ^ theirs)[:3]
            raise HybridOptError(
                f"the saved state groups parameters otherwise: {odd} are on one side only; "
                "make the optimizer for the parameters and with the policy it was saved with"
            )
        if group.get("treatment") != mine["treatment"]:
            raise HybridOptError(
                f"parameter {mine['param_names'][0]!r} was trained as {group.get('tag')!r} with "
                f"{group.get('treatment')}, and is now {mine['tag']!r} with {mine['treatment']}; "
                "make the optimizer with the policy it was saved with"
            )
        check_count(f"the saved group of {mine['param_names'][0]!r}", "step", group.get("step"), 0)
        return group
    raise HybridOptError(
        f"the saved state has nothing for parameter {mine['param_names'][0]!r} (tag {mine['tag']!r}); "
        "it was saved by another optimizer, or for other parameters"
    )


def _ordered(mine, theirs):
    """Bring the parameters of a saved group into the live order."""
    ids = dict(zip(theirs["param_names"], theirs["params"], strict=True))
    return {**theirs, "params": [ids[n] for n in mine["param_names"]], "param_names": mine["param_names"]}


def _state(job_at, group, name, p, state):
    for key in ("step", "window"):
        check_count(f"the saved state of {name!r}", key, state.get(key), 0)
    wanted = declare(job_at(group, name, p, state["window"]))
    for key in sorted(set(state) - {"step", "window"}):
        if key not in wanted:
            raise HybridOptError(f"the saved state of {name!r} has an unknown entry {key!r}; known: {sorted(wanted)}")
        value, slot = state[key], wanted[key]
        if not isinstance(value, Tensor):
            raise HybridOptError(f"the saved {key!r} of {name!r} is no tensor: {value!r}")
        if (tuple(value.shape), value.dtype) != (tuple(slot.shape), slot.dtype):
            raise HybridOptError(
                f"the saved {key!r} of {name!r} has shape {tuple(value.shape)} and dtype {value.dtype}; "
                f"this optimizer keeps {tuple(slot.shape)} and {slot.dtype}"
            )
    lost = {k for k in wanted if not k.startswith("split.")} - set(state)
    if lost and len(state) > 2:
        raise HybridOptError(f"the saved state of {name!r} lacks {sorted(lost)}")
    return {k: v.detach().to(p.device, copy=True) if isinstance(v, Tensor) else v for k, v in state.items()}
