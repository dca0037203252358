"""Bytes of what stays on the device from the first step on, beside weights and state: tables and notes of the log."""

from collections.abc import Iterator

from ...core.numerics.noise_tables import table
from ...core.numerics.rounding import table_bytes
from ...model.checksums import checksum_room, table_sizes
from ...optimizer.probing.follow import head_elements, replayable
from ...policy.plan import Entry, Plan
from .drawing import CPU, Drawing

__all__ = ["lasting_bytes", "noting_bytes"]


def lasting_bytes(plan: Plan, drawing: Drawing, rounding: int) -> int:
    """Return the bytes of tables that a process makes once, and of the weights' beginnings that a log of probes holds.

    The hashes that weights are summed up with (when the model is wrapped) and rounded at random with are one table.

    Args:
        plan: which parameter is trained how.
        drawing: of the plan's directions.
        rounding: bytes that the table has after the updates.
    """
    noise = sum(table(kind, CPU).nbytes for kind in drawing.kinds)
    hashes = table_bytes(size for e in plan.entries for size in table_sizes(_integers(e)))
    heads = sum(head_elements(e.param.shape) * e.param.dtype.itemsize for e in _followed(plan))
    return noise + max(rounding, hashes) + heads


def noting_bytes(plan: Plan, device: str) -> int:
    """Return the bytes that the log of probes takes for a moment to note the weights before the first step."""
    return max((checksum_room(_integers(e), device) for e in _followed(plan)), default=0)


def _followed(plan: Plan) -> Iterator[Entry]:
    """Yield the parameters whose updates are recorded as numbers alone."""
    for entry in plan.entries:
        treatment = None if entry.param.codes else entry.treatment
        if treatment is not None and replayable(treatment, entry.param.dtype):
            yield entry


def _integers(entry: Entry) -> int:
    return entry.numel * max(1, (entry.param.codes or entry.param.dtype).itemsize // 4)
