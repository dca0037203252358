"""Choose how a run trains: what it says, or the first way that fits the memory beside its margin."""

from dataclasses import replace
from typing import Any

from ...core.budget import Budget
from ...core.errors import HybridOptError
from ...core.launch_environment import launched
from ...core.sizes import gib
from ...optimizer.releases import release_class
from ...planning import Estimate, Request, search
from ...planning.ways.choice import Choice
from ...planning.ways.offloaded import placed_ways, rests_as
from ...planning.ways.ways import WAYS
from ..config.run import AUTO, Method, Run
from .changes import change_of, difference
from .planner import Planner
from .settling import with_rate, with_windows
from .shape import Chosen, Shape
from .targets import check_targets

__all__ = ["Chosen", "Shape", "choose", "least_change"]

LESS = 0.9  # of what was planned: what did not fit, though it was planned to, has to become clearly smaller


def choose(run: Run, config: Any, shape: Shape, must_fit: bool = True, others: int = 0) -> Chosen:
    """Return a run with its method settled, and what it takes.

    Args:
        run: what is asked.
        config: of the model, with the output layer that is trained: transformers' configuration, or what `plan` takes.
        shape: of its passes.
        must_fit: whether a method that does not fit is refused; otherwise it is returned with its estimate.
        others: so many further ways that fit are looked for, where the method is chosen.

    Raises:
        HybridOptError: nothing fits beside the margin, or not what the run asks for; the text ends with the least
            change with which it would.
    """
    planner = Planner(run, config, shape)
    check_targets(run, planner.estimator.source)
    if run.method.policy == AUTO:
        return _searched(planner, others)
    estimate = _settled(planner)
    if must_fit and _lacks(planner, estimate):
        raise _too_large(planner, estimate)
    return _chosen(planner, estimate, [])


def least_change(run: Run, config: Any, shape: Shape) -> str | None:
    """Return the least harmful change of a settled run that takes clearly less memory; None where there is none.

    Args:
        run: as it was carried out.
        config: of the model, as for `choose`.
        shape: of its passes.
    """
    planner = Planner(run, config, shape)
    planned = _settled(planner)
    return change_of(planner, planned.request, int(LESS * planned.peak_bytes))


# ---- a method that is given


def _settled(planner: Planner) -> Estimate:
    """Return the estimate of the run's own method, with checkpointing where that is open and is needed."""
    request = planner.estimator.settled(planner.request(), planner.room, planner.host)
    found = planner.estimator.estimate(request)
    open_ = planner.run.train.checkpointing == AUTO and planner.checkpoints(request)
    return planner.estimator.estimate(request.but(checkpointing=True)) if open_ and _lacks(planner, found) else found


def _lacks(planner: Planner, estimate: Estimate) -> bool:
    return bool(estimate.missing(planner.room.usable) or estimate.missing_on_host(planner.host))


def _too_large(planner: Planner, estimate: Estimate) -> HybridOptError:
    if lacking := estimate.missing_on_host(planner.host):
        return HybridOptError(
            f"this run does not fit: the layers that rest on the host take {gib(lacking)} more than its memory has "
            "left; write method.placement: disk, or let more layers stay (method.placement.resident)"
        )
    room, change = planner.room, change_of(planner, estimate.request, planner.room.usable)
    cure = f"the least change: {change}" if change else _other_way(planner, estimate.request)
    if planner.run.parallel == "fsdp" and estimate.request.gpus == 1:
        cure = f"as parallel: fsdp needs a launcher, to share it: {launched()}; or {cure}"
    return HybridOptError(
        f"this run does not fit into {room}: a step takes {gib(estimate.peak_bytes)}, "
        f"{gib(estimate.missing(room.usable))} too much{_tight(estimate, room)}; {cure}"
    )


def _other_way(planner: Planner, request: Request) -> str:
    """Return the first way that fits, as what changes of a run whose method cannot be kept; or why there is none."""
    train = replace(planner.run.train, checkpointing=AUTO, dtype=planner.dtype, lr=AUTO, lr_batch=None)
    free = Planner(replace(planner.run, method=Method(), train=train), planner.estimator.source, planner.shape)
    try:
        first = _fitting(free, 0)[0]
    except HybridOptError as error:
        return f"no change makes this method fit, and with method: auto {error}"
    told = difference(planner.run_of(request), free.run_of(first.request))
    return f"this method fits by no change; the first way that does: {told} ({gib(first.estimate.peak_bytes)})"


# ---- a method that is chosen


def _searched(planner: Planner, others: int) -> Chosen:
    best, *rest = _fitting(planner, others)
    told = [f"Method: {best.way.title}, the first of the ways that fit (given up: {best.way.why})"]
    return replace(_chosen(planner, best.estimate, told), others=tuple(rest), title=best.way.title)


def _fitting(planner: Planner, others: int) -> list[Choice]:
    """Return the first ways that fit, at least one; raise HybridOptError where none does."""
    asked, room = _asked(planner), planner.room
    try:
        size, known = planner.size, planner.estimator
        found = search(known.source, room, asked=asked, enough=1 + others, estimator=known, host=planner.host, **size)
    except HybridOptError as error:
        smallest = _smallest(planner, asked)
        raise error if smallest is None or not _lacks(planner, smallest) else _nothing(planner, smallest) from None
    fitting = [choice for choice in found if choice.fits]
    if not fitting:
        raise _nothing(planner, min((choice.estimate for choice in found), key=lambda e: e.peak_bytes))
    return fitting


def _asked(planner: Planner) -> dict[str, Any]:
    """Return what the run says of its method, for `search`."""
    method, asked = planner.run.method, dict[str, Any](chunk=None)  # the loss is the trainer's
    asked |= {} if method.lora is None else {"lora": method.lora.r}
    asked |= {} if method.quantization is None else {"quantization": method.quantization}
    asked |= {} if method.release == Method.release else {"release": method.release}
    asked |= {} if method.placement is None else {"placement": planner.placement}
    again = planner.run.train.checkpointing
    return asked | ({} if again == AUTO else {"checkpointing": again})


def _smallest(planner: Planner, asked: dict[str, Any]) -> Estimate | None:
    """Return the estimate of the way that takes least, of those that the run leaves open; None where there is none."""
    found: list[tuple[int, int, Request]] = []
    for way in (*WAYS, *placed_ways(planner.device, planner.host)):
        request = Request(**way.settings | planner.size | asked)
        if planner.run.train.checkpointing == AUTO and planner.checkpoints(request):
            request = request.but(checkpointing=True)
        try:
            if _agrees(way.settings, asked):
                request = planner.estimator.settled(request, planner.room, planner.host)
                found.append((planner.estimator.least(request), len(found), request))
        except HybridOptError:
            continue
    return planner.estimator.estimate(min(found)[2]) if found else None


def _agrees(settings: dict[str, Any], asked: dict[str, Any]) -> bool:
    lora = "lora" not in asked or settings["lora"] is not None
    if "placement" in asked and not rests_as(settings["placement"], asked["placement"]):
        return False
    return lora and asked.get("quantization", settings["quantization"]) == settings["quantization"]


def _nothing(planner: Planner, smallest: Estimate) -> HybridOptError:
    """Return the error where not even the smallest way fits, or only into the margin."""
    room, weights = planner.room, smallest.weights_bytes + smallest.quantization_bytes
    change = change_of(planner, smallest.request, room.usable, fixed=False)
    cure = f"the least change: {change}" if change else "take a smaller model, or a larger GPU"
    return HybridOptError(
        f"nothing fits into {room}: the smallest way takes {gib(smallest.peak_bytes)}, of which {gib(weights)} are "
        f"weights{_tight(smallest, room)}; {cure}"
    )


def _tight(estimate: Estimate, room: Budget) -> str:
    return " (it fits only into the margin: margin: 0 fills the memory)" if estimate.tight(room) else ""


# ---- what is written back


def _chosen(planner: Planner, estimate: Estimate, told: list[str]) -> Chosen:
    request = estimate.request
    run = planner.run_of(request)
    told = [*planner.told, *told]
    run, rate = with_rate(run, planner.estimator, request)
    run, windows = with_windows(run, planner.estimator, request, planner.shape.steps)
    told += [*rate, *windows, *_notes(planner, request)]
    return Chosen(run, planner.shown(estimate), planner.room, told)


def _notes(planner: Planner, request: Request) -> list[str]:
    """Return what people should know of a method."""
    found, train = [], planner.run.train
    if request.checkpointing and train.checkpointing == AUTO:
        found.append("train.checkpointing=true: it would not fit without; layers are computed a second time")
    if release_class(request.release).frees_gradients and train.clip is not None and not request.probes:
        found.append(
            f"train.clip={train.clip:g} is by the norm of the step before, as release={request.release} frees "
            "gradients within the backward pass"
        )
    if said := planner.estimator.useless_rank(request):
        found.append(f"method.lora: {said}")
    if request.placement is not None and request.placement.base == "host":
        found.append("method.placement: layers rest in the host's memory, and every pass copies them over the bus")
    elif request.placement is not None:
        found.append("method.placement: layers rest on disk, and every pass reads them")
    if planner.shape.generates:
        found.append("answers are made between the steps; the keys and values kept for that are not in the plan")
    return found
