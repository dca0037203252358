"""How long a step computes, and how long it carries weights: the one number of a plan that is an assumption."""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from ...core.card_speeds import Flops
from ...core.host import Host
from ...model.placement.storage.drive_endurance import WRITTEN

if TYPE_CHECKING:
    from ..estimate import Estimate

__all__ = ["Pace", "pace_of"]

DAY = 86400.0  # seconds
PER_PARAMETER = 2  # a multiplication and a sum


@dataclass(frozen=True)
class Pace:
    """Seconds of a step, each as if nothing else were done.

    Args:
        compute: multiplications; None: nobody knows how fast the card is.
        bus: copying to the device.
        disk: reading from disk.
        hidden_from: tokens of a forward pass from which computing takes longer than carrying; None: not known.
        days: until a drive of 1 TB has been written as often as it endures; None: nothing is written, or not known.
        flops: that the card reaches; None: not known.
    """

    compute: float | None
    bus: float
    disk: float
    hidden_from: int | None
    days: float | None
    flops: Flops | None

    @property
    def carrying(self) -> float:
        """Return the seconds in which all weights are carried, bus and disk at the same time."""
        return max(self.bus, self.disk)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        seconds = {"compute_seconds": self.compute, "bus_seconds": self.bus, "disk_seconds": self.disk}
        told: dict[str, Any] = {name: None if x is None else round(x, 4) for name, x in seconds.items()}
        told |= {"hidden_from_tokens": self.hidden_from}
        told |= {} if self.flops is None else {"flops": self.flops.a_second, "flops_are": self.flops.known}
        return told | ({} if self.days is None else {"drive_days": round(self.days, 1)})


def pace_of(estimate: "Estimate", host: Host, flops: Flops | None = None) -> Pace | None:
    """Return how long a step of placed layers takes; None where nothing is placed.

    Args:
        estimate: of the step.
        host: whose bus and disk carry.
        flops: that the card reaches; None: not known.
    """
    carried, request, work = estimate.carried, estimate.request, estimate.work
    if carried is None:
        return None
    bus, disk = carried.bus / host.bus.bytes, carried.read / host.disk.bytes
    units = 3 * request.micro_batches * work.relative  # passes of one multiplication for each parameter and token
    tokens, compute, hidden = request.batch * request.seq_len, None, None
    if flops is not None:
        per_token = PER_PARAMETER * carried.multiplied * units / flops.a_second
        compute, hidden = tokens * per_token, ceil(max(bus, disk) / per_token)
    step = max(bus, disk, compute or 0.0)
    days = WRITTEN / (carried.written * DAY / step) if carried.written and step else None
    return Pace(compute, bus, disk, hidden, days, flops)
