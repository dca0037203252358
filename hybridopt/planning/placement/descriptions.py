"""What placement costs, in words: rows of a table for people."""

from typing import TYPE_CHECKING

from ...core.card_speeds import Flops
from ...core.host import Host
from ...core.sizes import gib, human
from ...model.placement.placement import Placement
from ...model.placement.storage.drive_endurance import WRITTEN
from .offloaded_tensors import Carried
from .pace import Pace, pace_of

if TYPE_CHECKING:
    from ..estimate import Estimate

__all__ = ["placed_rows", "shown_placement"]

Row = tuple[str, str, str]  # what, how much, and what that is


def shown_placement(placement: Placement) -> str:
    """Return where layers rest, and how many do not."""
    stay = f", {placement.resident} of them stay" if placement.resident else ""
    return f"layers on {'the host' if placement.base == 'host' else placement.base} (slots={placement.slots}{stay})"


def placed_rows(estimate: "Estimate", host: Host | None = None, flops: Flops | None = None) -> list[Row]:
    """Return rows on what rests elsewhere, and what a step moves; none where nothing is placed.

    Args:
        estimate: of the step.
        host: whose memory is told, and in how many seconds its bus and its disk carry; None: bytes alone.
        flops: that the card reaches; None: not known.
    """
    carried = estimate.carried
    if carried is None:
        return []
    pace = None if host is None else pace_of(estimate, host, flops)
    return [*_resting(carried, host), *_moved(carried, host, pace), *_worn(carried, pace), *_computed(pace)]


def _resting(carried: Carried, host: Host | None) -> list[Row]:
    rows = []
    if carried.host:
        room = "" if host is None or host.memory is None else f", of {gib(host.memory)}"
        lacking = 0 if host is None else host.missing(carried.host)
        short = f": {gib(lacking)} are missing" if lacking else ""
        rows.append(("on the host", human(carried.host), f"weights at rest, page-locked for a GPU{room}{short}"))
    if carried.disk:
        rows.append(("on disk", human(carried.disk), f"weights at rest, of {carried.layers} layers"))
    return rows


def _moved(carried: Carried, host: Host | None, pace: Pace | None) -> list[Row]:
    rows = []
    if carried.bus:
        took = "" if host is None or pace is None else f": {_seconds(pace.bus)} at {host.bus}"
        rows.append(("over the bus", human(carried.bus), f"a step, {carried.fetches} fetches of layers{took}"))
    if carried.returned:
        rows.append(("back to the host", human(carried.returned), "a step, on the average: weights that are trained"))
    if carried.read:
        took = "" if host is None or pace is None else f": {_seconds(pace.disk)} at {host.disk}"
        rows.append(("read from disk", human(carried.read), f"a step{took}"))
    return rows


def _worn(carried: Carried, pace: Pace | None) -> list[Row]:
    if not carried.disk:
        return []
    if not carried.written:
        return [("written to disk", human(0), "a step")]
    life = ""
    if pace is not None and pace.days is not None:
        life = f"; a drive of 1 TB that endures {WRITTEN / 1e12:.0f} TB (assumed) lasts {pace.days:,.0f} days"
    return [("written to disk", human(carried.written), f"a step, on the average{life}")]


def _computed(pace: Pace | None) -> list[Row]:
    if pace is None or pace.compute is None:
        return []
    hidden = f"carrying hides behind it from {pace.hidden_from:,} tokens of a pass"
    return [("computing", _seconds(pace.compute), f"a step, at {pace.flops}; {hidden}")]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
