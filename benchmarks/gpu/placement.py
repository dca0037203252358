"""The table of layers that rest on the host, beside the same layers on the device."""

from typing import Any

from ..shared.placed_names import GRADIENTS, PLACED, RESIDENT
from .line import Line, Rows, broken, gib, off
from .machine import Machine

__all__ = ["placement", "placement_plans"]

PLAN = 0.03  # by which the peak may differ from the planned one
SPEED = {2048: 0.8, 4096: 0.95}  # of training with everything on the device, by tokens
STALLED = 0.05  # share of the time that the device waits for copies
PINNED = 1.05  # page-locked bytes, times the weights


def placement(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of steps, each beside its plan and beside the same step with all layers on the device."""
    found, real = list[Line](), machine.device == "cuda"
    plans = {_key(row): row.get("peak_bytes") for row in rows.get("plan placement", [])}
    made = {_key(row): row for row in rows["placement"]}
    for (how, tokens), row in made.items():
        if how == GRADIENTS:
            found += _gradients(row)
            continue
        if "failed" in row:
            found.append(broken(f"{how}, {tokens} tokens", row["failed"]))
            continue
        plan = plans.get((how, tokens))
        other = made.get((RESIDENT, tokens), {}).get("tokens_per_second")
        times = row["tokens_per_second"] / other if other else None
        cells: tuple[str, ...] = (how, str(tokens), gib(row["peak_bytes"]), gib(plan), off(row["peak_bytes"], plan))
        cells += (
            f"{row['tokens_per_second']:.0f}",
            f"{times:.2f}" if times else "-",
            _share(row.get("stalled_share")),
        )
        held = how == PLACED and real
        least = SPEED.get(tokens) if held and times else None
        found.append(
            Line(cells, f"{least:.0%} of the speed" if least else "", times >= least if least and times else None)
        )
        if held:
            found += _bounds(row, plan)
    return found


def placement_plans(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of predicted peaks."""
    told = [(f"{row['how']}, {row['tokens']} tokens", row) for row in rows["plan placement"]]
    return [
        broken(name, row["failed"]) if "failed" in row else Line((name, gib(row["peak_bytes"]))) for name, row in told
    ]


def _bounds(row: dict[str, Any], plan: int | None) -> list[Line]:
    """Return a line for everything else that was aimed at."""
    told, share = f"on the host, {row['tokens']} tokens", row["stalled_share"]
    pinned = row["pinned_bytes"] / row["weight_bytes"]
    found = [
        Line((f"{told}: stalled", _share(share)), f"< {STALLED:.0%}", share < STALLED),
        Line((f"{told}: page-locked, times the weights", f"{pinned:.3f}"), f"≤ {PINNED}", 1 <= pinned <= PINNED),
    ]
    if plan is not None:
        near = abs(plan / row["peak_bytes"] - 1) <= PLAN
        found.append(Line((f"{told}: plan", off(row["peak_bytes"], plan)), f"within {PLAN:.0%}", near))
    return found


def _gradients(row: dict[str, Any]) -> list[Line]:
    """Return the line of gradients; where those of one model differ from call to call, nothing is told of another."""
    said = f"{row['differ']} of {row['adapters']} differ"
    if row["differ_resident"]:
        return [Line((row["how"], f"{said}; {row['differ_resident']} do so from call to call, on the device alone"))]
    return [Line((row["how"], said), "equal", row["differ"] == 0)]


def _key(row: dict[str, Any]) -> tuple[str, int]:
    return row["how"], row["tokens"]


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
