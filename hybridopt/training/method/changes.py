"""The least change with which a run takes less memory."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...core.errors import HybridOptError
from ...core.sizes import gib
from ...optimizer.releases import DEFAULT
from ...planning import Estimate, Request
from ...planning.ways.changes import changed
from ..config.keys import Branch, Key, every
from ..config.run import Run
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
    for variants in _candidates(planner, request, fixed):
        found = _first(planner, variants, room)
        if found is not None:
            before, after = planner.run_of(request), planner.run_of(found.request)
            told = difference(before, after) if fixed else difference(planner.run, _sizes(planner.run, after))
            return f"{told} ({gib(found.peak_bytes)})"
    return None


def _first(planner: Planner, variants: list[Request], room: int) -> Estimate | None:
    """Return the estimate of the first variant that fits; None where the last, which takes least, does not."""
    if not variants or _fitting(planner, variants[-1], room) is None:
        return None
    return next(found for each in variants if (found := _fitting(planner, each, room)) is not None)


def _fitting(planner: Planner, request: Request, room: int) -> Estimate | None:
    try:
        if planner.estimator.least(request) > room:
            return None  # without a pass on fake tensors
        found = planner.estimator.estimate(request)
    except HybridOptError:
        return None
    return None if found.missing(room) or found.missing_on_host(planner.host) else found


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
    lines = " and ".join(f"{section}: {flow(value, section)}" for section, value in nested.items())
    return f"{lines} in run.yaml, or {' '.join(f'--set {_quoted(name, value)}' for name, value in found.items())}"


def _candidates(planner: Planner, request: Request, fixed: bool) -> Iterator[list[Request]]:
    """Yield changed requests in groups, the least harmful first; the last of a group takes least."""
    free = list(_free(planner, request)) if fixed else []
    yield free
    smallest = free[-1] if free else request
    also = {"checkpointing": smallest.checkpointing, "release": smallest.release}
    if fixed and request.dtype == "fp32":
        yield [request.but(dtype="bf16"), smallest.but(dtype="bf16")]
    for candidate in _single(planner, request):
        if fixed or (candidate.weights, candidate.options) == (request.weights, request.options):
            yield [candidate, candidate.but(**also), *_shorter(candidate.but(**also), request)]
    if fixed and request.placement is None and (request.lora is not None or request.probes):
        for placement in planner.placements():
            yield [request.but(placement=placement), smallest.but(placement=placement)]
    if fixed:
        yield from _together(planner, smallest)


def _single(planner: Planner, request: Request) -> Iterator[Request]:
    """Yield each single change of a request; where answers are made they are as long as the task says."""
    for _, candidate in changed(request):
        if candidate.seq_len == request.seq_len or not planner.shape.generates:
            yield candidate


def _together(planner: Planner, smallest: Request) -> Iterator[list[Request]]:
    """Yield what changes least, all at once: one sequence at a time in bfloat16; then that with one change more."""
    passes = smallest.batch * smallest.micro_batches
    mild = smallest.but(dtype="bf16" if smallest.dtype == "fp32" else smallest.dtype, batch=1, micro_batches=passes)
    yield [mild]
    yield from ([each, *_shorter(each, mild)] for each in _single(planner, mild))


def _shorter(candidate: Request, request: Request) -> Iterator[Request]:
    """Yield ever shorter sequences, where the change was to halve them."""
    if candidate.seq_len == request.seq_len:
        return
    for _, again in changed(candidate):
        if again.seq_len < candidate.seq_len:
            yield again
            yield from _shorter(again, request)


def _free(planner: Planner, request: Request) -> Iterator[Request]:
    """Yield what changes nothing that is learnt: checkpointing, gradients freed at once, both; shards, all three."""
    again = {"checkpointing": True} if planner.checkpoints(request) and not request.checkpointing else {}
    fused = {"release": FUSED} if request.release == DEFAULT and not request.probes else {}
    changes: list[dict[str, Any]] = [again, fused, again | fused]
    if request.gpus > 1 and request.parallel == "ddp" and planner.shape.shards:
        changes += [{"parallel": "fsdp"}, again | fused | {"parallel": "fsdp"}]
    found = [change for i, change in enumerate(changes) if change and change not in changes[:i]]
    yield from (request.but(**change) for change in found)


def _sizes(run: Run, after: Run) -> Run:
    """Return a run with the sizes of another: its method is chosen anew."""
    train = replace(run.train, batch=after.train.batch, accumulate=after.train.accumulate)
    return replace(run, train=train, data=replace(run.data, max_length=after.data.max_length))


def _changed_keys(before: Run, after: Run) -> Iterator[tuple[str, Any]]:
    """Yield the keys that differ, with their new values; a section that is new by its chief key, if that says all."""
    whole: set[str] = set()
    for member in every():
        one, two = _at(before, member.name), _at(after, member.name)
        if isinstance(member, Branch) and member.optional and (one is None) != (two is None):
            whole.add(f"{member.name}.")
            yield member.name, None if two is None else _short(member, two)
        elif isinstance(member, Key) and one != two and not member.name.startswith(tuple(whole)):
            yield member.name, dict(two) if isinstance(two, Mapping) else two


def _short(section: Branch, value: Any) -> Any:
    """Return the chief key's value of a section that is all else as by default; else what differs from that."""
    own = {name: vars(value)[name] for name, key in section.members.items() if vars(value)[name] != key.default}
    chief = section.short or ""
    return vars(value)[chief] if own.keys() <= {chief} else {chief: vars(value)[chief]} | own


def _at(run: Run, name: str) -> Any:
    found: Any = run
    for part in name.split("."):
        found = None if found is None else vars(found)[part]
    return found


def _quoted(name: str, value: Any) -> str:
    text = f"{name}={flow(value, name)}"
    return f"'{text}'" if set(text) & set(' {}[]"&*#!|>$') else text
