"""The least change with which a run takes less memory."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...core.errors import HybridOptError
from ...core.sizes import gib
from ...optimizer.releases import DEFAULT
from ...planning import Request
from ...planning.ways.changes import changed
from ..config.keys import Key, every
from ..config.run import LoraSettings, Run
from ..config.writing import flow
from .planner import Planner

__all__ = ["change_of", "difference"]

FUSED = "fused"


def change_of(planner: Planner, request: Request, room: int, fixed: bool = True) -> str | None:
    """Return the least harmful change with which a request fits into `room` bytes, as YAML and as --set; None without.

    Args:
        planner: of the run.
        request: that does not fit.
        room: bytes.
        fixed: whether the method is the run's own, and may be changed, too; otherwise only sizes are.
    """
    for candidate in _candidates(planner, request, fixed):
        try:
            if planner.estimator.least(candidate) > room:
                continue  # without a pass on fake tensors
            found = planner.estimator.estimate(candidate)
        except HybridOptError:
            continue
        if not found.missing(room):
            before = planner.run_of(request) if fixed else planner.run
            after = planner.run_of(candidate)
            after = after if fixed else _sizes(planner.run, after)
            return f"{difference(before, after)} ({gib(found.peak_bytes)})"
    return None


def difference(before: Run, after: Run) -> str:
    """Return what makes one run of another: as a line of run.yaml, and as options of the command line."""
    found = dict(_changed_keys(before, after))
    nested: dict[str, Any] = {}
    for name, value in found.items():
        *above, last = name.split(".")
        place = nested
        for section in above:
            place = place.setdefault(section, {})
        place[last] = value
    lines = ", ".join(f"{section}: {flow(value, section)}" for section, value in nested.items())
    return f"{lines} in run.yaml, or {' '.join(f'--set {_quoted(name, value)}' for name, value in found.items())}"


def _candidates(planner: Planner, request: Request, fixed: bool) -> Iterator[Request]:
    """Yield changed requests, the least harmful first; where texts are made, sequences stay as long as they are."""
    free = list(_free(planner, request)) if fixed else []
    yield from free
    smallest = free[-1] if free else request
    for _, candidate in changed(request):
        if candidate.seq_len < request.seq_len and planner.shape.generates:
            continue
        if not fixed and (candidate.policy, candidate.options, candidate.weights) != (
            request.policy,
            request.options,
            request.weights,
        ):
            continue
        yield candidate
        also = {"checkpointing": smallest.checkpointing and not candidate.probes, "release": smallest.release}
        if candidate.but(**also) != candidate:
            yield candidate.but(**also)
        yield from _shorter(candidate.but(**also), request)


def _shorter(candidate: Request, request: Request) -> Iterator[Request]:
    """Yield ever shorter sequences, once the first change was to halve them."""
    if candidate.seq_len == request.seq_len:
        return
    for _, again in changed(candidate):
        if again.seq_len < candidate.seq_len:
            yield again
            yield from _shorter(again, request)


def _free(planner: Planner, request: Request) -> Iterator[Request]:
    """Yield what changes nothing that is learnt: checkpointing, gradients freed at once, both."""
    again = {"checkpointing": True} if planner.checkpoints(request) and not request.checkpointing else {}
    fused = {"release": FUSED} if request.release == DEFAULT and not request.probes else {}
    changes: list[dict[str, Any]] = [again, fused, again | fused]
    found = [change for i, change in enumerate(changes) if change and change not in changes[:i]]
    yield from (request.but(**change) for change in found)


def _sizes(run: Run, after: Run) -> Run:
    """Return a run with the sizes of another: its method is chosen anew."""
    train = replace(run.train, batch=after.train.batch, accumulate=after.train.accumulate)
    return replace(run, train=train, data=replace(run.data, max_length=after.data.max_length))


def _changed_keys(before: Run, after: Run) -> Iterator[tuple[str, Any]]:
    """Yield the keys that differ, with their new values; adapters that are new by their rank alone."""
    whole: set[str] = set()
    for member in every():
        one, two = _at(before, member.name), _at(after, member.name)
        if isinstance(one, LoraSettings) != isinstance(two, LoraSettings):
            whole.add(f"{member.name}.")
            yield member.name, None if two is None else two.r
        elif isinstance(member, Key) and one != two and not member.name.startswith(tuple(whole)):
            yield member.name, dict(two) if isinstance(two, Mapping) else two


def _at(run: Run, name: str) -> Any:
    found: Any = run
    for part in name.split("."):
        found = None if found is None else vars(found)[part]
    return found


def _quoted(name: str, value: Any) -> str:
    text = f"{name}={flow(value, name)}"
    return f"'{text}'" if set(text) & set(' {}[]"&*#!|>$') else text
