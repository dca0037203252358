"""Search for the ways to train that fit a memory, closest to AdamW on all weights first."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core.budget import Budget, budget
from ...core.errors import HybridOptError
from ...core.host import Host
from ...core.sizes import gib
from ..estimator import Estimator
from ..request import Request
from ..subject.inputs import small, usual_length
from ..subject.source import subject_of
from .choice import Choice
from .first_fit import Hunt
from .ways import Way

__all__ = ["Choice", "search"]


def search(
    model: object,
    memory: str | int | Budget,
    *,
    margin: float | None = None,
    asked: Mapping[str, Any] | None = None,
    watch: Callable[[Sequence[Way]], Iterable[Way]] = iter,
    enough: int | None = None,
    estimator: Estimator | None = None,
    host: Host | None = None,
    **size: Any,
) -> list[Choice]:
    """Return all ways to train a model: those that fit, those that fit only into the margin, the rest; each in rank.

    Args:
        model: as for `plan`: a known name, a path, or transformers' configuration.
        memory: a card ("4090", "auto" for that of this machine), a size ("24GiB"), or a number of bytes.
        margin: share of the memory that is kept free; None: 4 %.
        asked: lora, quantization, release, checkpointing, chunk, placement of a `Request`, where only such ways are
            wanted.
        watch: is given the ways, returns them one by one, and may show how far the search is.
        enough: so many ways that fit end the search, and nothing is said of those that do not; None: all are tried.
        estimator: of the model; None: one is made.
        host: beside the memory; where its own is known, layers that rest there or on disk are offered as well, where
            the same way does not fit without.
        **size: seq_len (2048, or as many as there are positions for), batch, micro_batches, dtype, device,
            peft_config, adapter_dtype of a `Request`.

    Raises:
        HybridOptError: nothing fits, not even into the margin, no way is as asked for, or the model cannot be planned.
    """
    room = budget(memory, margin)
    estimator = estimator or Estimator(subject_of(model))
    if "seq_len" not in size:
        size["seq_len"] = usual_length(small(estimator.source))
    hunt = Hunt(estimator, room.usable, dict(asked or {}), Request(**size), all_sizes=enough is None, host=host)
    hunt.check()
    wanted = [way for way in hunt.ways() if hunt.wanted(way)]
    found = list(_up_to(enough, (choice for way in watch(wanted) if (choice := hunt.choice(way)) is not None)))
    if not found:
        raise hunt.failed or _none({name: value for name, value in hunt.asked.items() if value is not None})
    fitting = [choice for choice in found if choice.fits]
    tight = [replace(c, tight=True) for c in found if c.estimate.tight(room) and not c.estimate.missing_on_host(host)]
    if not fitting and not tight:
        raise _nothing(found, room, host)
    rest = [c for c in found if c.estimate.peak_bytes > room.total or c.estimate.missing_on_host(host)]
    return [*fitting, *tight, *(replace(c, change=None if enough else hunt.change(c)) for c in rest)]


def _up_to(enough: int | None, choices: Iterator[Choice]) -> Iterator[Choice]:
    """Yield choices, no more after so many that fit."""
    for choice in choices:
        yield choice
        enough = enough if enough is None or not choice.fits else enough - 1
        if enough == 0:
            return


def _none(asked: dict[str, Any]) -> HybridOptError:
    return HybridOptError(f"no known way to train has {asked}; leave some of it out, or give a policy")


def _nothing(found: list[Choice], room: Budget, host: Host | None) -> HybridOptError:
    least = min(found, key=lambda c: c.estimate.peak_bytes)
    e, r = least.estimate, least.request
    if e.carried is not None and (lacking := e.missing_on_host(host)):
        return HybridOptError(
            f"{e.model}: nothing fits: the least, {least.way.title}, takes {gib(e.carried.host)} of host memory, "
            f"so {gib(lacking)} are missing there; take a smaller model, more memory for the host, or layers on disk"
        )
    return HybridOptError(
        f"{e.model}: nothing fits into {room}: the least, {least.way.title}, takes {gib(e.peak_bytes)} "
        f"({gib(e.weights_bytes + e.quantization_bytes)} of it weights) with {r.batch} x {r.seq_len} tokens, so "
        f"{gib(e.missing(room.usable))} are missing; take a smaller model, a larger GPU, or "
        f"{'fewer or ' * (r.batch > 1)}shorter sequences"
    )
