"""Matching a saved optimizer state to a live optimizer: by name, exactly, or not at all."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, contiguous_format

from ...core.errors import HybridOptError, check_count, shown, written
from ...execution.sharded.work_division import WHOLE
from ...policy.job import BASIS, WEIGHT, declare
from ..groups.tags import named
from ..windows.windows import Windows
from .checks import (
    CURE,
    MOST_STEPS,
    MOST_TURNS,
    check_basis,
    check_clocks,
    check_group,
    check_params,
    check_shapes,
    check_tensor,
)
from .sharded import read

__all__ = ["CURE", "complete", "match"]


def complete(saved: dict, live: list[dict]) -> None:
    """Give every parameter of a state dict its shape, and an entry, empty where it has no state.

    Args:
        saved: what torch's optimizer makes of its groups and state.
        live: those groups, in the same order.
    """
    for index in [i for group in saved["param_groups"] for i in group["params"]]:
        saved["state"].setdefault(index, {})
    for group, mine in zip(saved["param_groups"], live, strict=True):
        group["param_shapes"] = [list(p.shape) for p in mine["params"]]


def match(
    live: list[dict],
    windows: Windows,
    saved: dict,
    found: dict,
    finite: bool = True,
    rests: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    """Bring a saved state dict into the order of the live groups and parameters.

    Args:
        live: the optimizer's param groups.
        windows: says in which window a parameter is, and what it keeps in any.
        saved: the state dict, as `state_dict()` returned it.
        found: is filled with the saved state, by live parameter.
        finite: refuse NaN and infinity in it.
        rests: called with a name; returns whether that parameter is frozen, and so was left out of the live groups.

    Returns:
        The state dict without state, for torch to load.

    Raises:
        HybridOptError: for parameters, shapes, dtypes or treatments that differ, and for numbers and tensors that no
            run leaves, naming them.
    """
    for key, kind in (("param_groups", list), ("state", dict)):
        if not isinstance(saved.get(key), kind):
            raise HybridOptError(f"the saved state has no {key!r}; give what state_dict() returned")
    known = [check_params(group) for group in saved["param_groups"]]
    _check_frozen(live, known, rests)
    groups = [_group(mine, known) for mine in live]
    if len(groups) != len(known):
        extra = [g.get("param_names") for g in known if not any(g is one for one in groups)]
        raise HybridOptError(f"the saved state has parameters that this optimizer lacks: {shown(extra)}")
    check_clocks(groups)
    _check_ids(known, saved["state"])
    states = {}
    for mine, theirs in zip(live, groups, strict=True):
        ids = dict(zip(theirs["param_names"], theirs["params"], strict=True))
        for name, p in zip(mine["param_names"], mine["params"], strict=True):
            if saved["state"].get(ids[name]):
                states[p] = _state(windows, theirs, name, p, saved["state"][ids[name]], finite)
    found.update(states)
    return {"state": {}, "param_groups": [_ordered(m, t) for m, t in zip(live, groups, strict=True)]}


def _check_frozen(live, groups, rests):
    """Raise HybridOptError where only what is frozen now is missing: a run that froze it on the way still held it."""
    mine, theirs = ({n for g in side for n in g.get("param_names", ())} for side in (live, groups))
    odd = sorted(theirs - mine)
    if odd and not mine - theirs and all(map(rests, odd)):
        raise HybridOptError(
            f"the saved state trains {odd[:3]} ({len(odd)} in all), which have requires_grad=False in this model; "
            "set it to True, make the optimizer, load the state, and freeze them again"
        )


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
                f"parameter {mine['param_names'][0]!r} was trained as {shown(group.get('tag'))} with "
                f"{written(group.get('treatment'))}, and is now {mine['tag']!r} with {mine['treatment']}; "
                "make the optimizer with the policy it was saved with"
            )
        check_group(group, mine)
        check_shapes(group, {name: tuple(p.shape) for name, p in named(mine)})
        return group
    raise HybridOptError(
        f"the saved state has nothing for parameter {mine['param_names'][0]!r} (tag {mine['tag']!r}); "
        "it was saved by another optimizer, or for other parameters"
    )


def _check_ids(groups, states):
    """Raise HybridOptError for parameters of two groups, and for state of none."""
    ids = [i for group in groups for i in group["params"]]
    if len(set(ids)) < len(ids):
        raise HybridOptError(f"the saved state has a parameter in two groups; {CURE}")
    for i in states:
        if not isinstance(states[i], dict):
            raise HybridOptError(f"the saved state of parameter {shown(i)} is {shown(states[i])}; {CURE}")
    if lost := [i for i in states.keys() - set(ids) if states[i]]:
        raise HybridOptError(f"the saved state has state of {shown(lost[0])}, which is in none of its groups; {CURE}")


def _ordered(mine, theirs):
    """Bring the parameters of a saved group into the live order."""
    ids = dict(zip(theirs["param_names"], theirs["params"], strict=True))
    own = {key: _copied(value, key) for key, value in theirs.items() if key != "param_shapes"}
    return {**own, "params": [ids[n] for n in mine["param_names"]], "param_names": mine["param_names"]}


def _copied(value, key):
    # Before torch does: what cannot be copied is found before anything is changed.
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise HybridOptError(f"a saved group has {key}={shown(value)}, which cannot be copied: {error}") from error


def _state(windows, group, name, p, state, finite):
    where = f"the saved state of {name!r}"
    if not all(isinstance(key, str) for key in state):
        raise HybridOptError(f"{where} is {shown(state)}; {CURE}")
    check_count(where, "step", state.get("step"), 0, MOST_STEPS)  # a step that was interrupted counts for some alone
    job = _job(windows, group, name, p, state.get("window"))
    wanted, share = declare(job), windows.of(name, p).share
    state = {
        k: read(k, v, job, share) if isinstance(v, Tensor) and k in wanted else v for k, v in sorted(state.items())
    }
    for key in sorted(set(state) - {"step", "window"}):
        if key not in wanted:
            raise HybridOptError(f"{where} has an unknown entry {key!r}; known: {sorted(wanted)}")
        check_tensor(name, key, state[key], wanted[key], p, finite)
    _check_complete(where, job, set(wanted), set(state) - {"step", "window"})
    check_basis(name, job, state, state["window"])
    elsewhere = share is not None and share.way == WHOLE and not share.owns
    return {k: _own(v, p, elsewhere) if isinstance(v, Tensor) else v for k, v in state.items()}


def _job(windows, group, name, p, window):
    """Return the update of a parameter in the window that its state is of."""
    split = windows.saved_job(group, name, p, 0).treatment.split
    check_count(f"the saved state of {name!r}", "window", window, 0, windows.number(group, name))
    if split.by_turns:
        check_count(f"the saved group of {name!r}", "step", group["step"], 0, split.begin(MOST_TURNS + 1))
    return windows.saved_job(group, name, p, window)


def _check_complete(where, job, wanted, there):
    """Raise HybridOptError for state that lacks tensors, unless they start anew in a window that has just begun.

    Args:
        where: whose state it is.
        job: of the parameter.
        wanted: names of all tensors that it keeps.
        there: names of those that are saved.
    """
    basis, weight = ({key for key in wanted if key.startswith(prefix)} for prefix in (BASIS, WEIGHT))
    moments, reset = wanted - basis, job.treatment.reset
    drawn_anew = there == moments and not reset
    found_anew = there == basis | weight and reset and job.part.carries
    if there and there not in (wanted, weight) and not drawn_anew and not found_anew:
        raise HybridOptError(f"{where} lacks {sorted(wanted - there)}; {CURE}")


def _own(value, p, elsewhere):
    if elsewhere:
        return value.detach().to("meta")
    return value.detach().clone(memory_format=contiguous_format).to(p.device)
