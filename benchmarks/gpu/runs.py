"""The table of runs of the command `hybridopt train`."""

from .line import Line, Rows, broken, gib, off
from .machine import Machine
from .peaks import planned

__all__ = ["trained"]


def trained(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of runs: peaks beside their plans, tokens a second, and whether the loss has fallen."""
    found = []
    for row in rows["train"]:
        if "failed" in row:
            found.append(broken(row["method"], row["failed"]))
            continue
        peak, plan, first, last = (row[name] for name in ("peak_bytes", "planned_bytes", "first_loss", "last_loss"))
        speed = f"{row['tokens_per_second']:.0f}"
        cells = (row["method"], gib(peak), gib(plan), off(peak, plan), speed, f"{first:.3f}", f"{last:.3f}")
        line = planned(cells, peak, plan, machine)
        fell = last < first
        aim = f"{line.aim}, a loss that falls".removeprefix(", ")
        found.append(Line(line.cells, aim, fell and line.reached is not False))
    return found
