"""The tables of whole steps: peaks of memory beside their plans."""

from collections.abc import Callable, Iterable

from .line import Line, Rows, broken, gib, off
from .machine import Machine
from .needs import GIB

__all__ = ["memory", "predictions", "sampled", "seventy"]

PLAN = 0.05  # by which a measured peak may differ from the planned one
SMALL_70B = 40 * GIB  # of a 70B model's step on 2,048 tokens


def memory(name: str) -> Callable[[Rows, Machine], list[Line]]:
    """Return what makes the table of whole steps: the peak beside the plan; fused release beside accumulating."""

    def lines(rows: Rows, machine: Machine) -> list[Line]:
        plans = {row["method"]: row for row in rows.get("plan 8B", [])}
        times = {row["method"]: row.get("seconds") for row in rows[name]}
        found = []
        for row in rows[name]:
            method = row["method"]
            if "failed" in row:
                found.append(broken(method, row["failed"]))
                continue
            other = times.get(method.removesuffix("-fused")) if method.endswith("-fused") else None
            beside = f"{row['seconds'] / other:.2f}" if other else "-"
            plan = plans.get(method, {}).get("peak_bytes")
            cells = (method, gib(row["peak_bytes"]), gib(plan), off(row["peak_bytes"], plan), f"{row['seconds']:.2f}")
            found.append(planned((*cells, beside), row["peak_bytes"], plan, machine))
        return found

    return lines


def sampled(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of steps that keep a share of their inputs: peak and seconds beside those that keep all."""
    plans = {row["method"]: row.get("peak_bytes") for row in rows.get("plan sampled", [])}
    all_kept = next((row for row in rows["sampled"] if row["method"] == "kept" and "failed" not in row), None)
    found = []
    for row in rows["sampled"]:
        if "failed" in row:
            found.append(broken(row["method"], row["failed"]))
            continue
        peak, plan, beside = row["peak_bytes"], plans.get(row["method"]), ("-", "-")
        if all_kept is not None:
            beside = f"{peak / all_kept['peak_bytes']:.2f}", f"{row['seconds'] / all_kept['seconds']:.2f}"
        cells = (row["method"], gib(peak), gib(plan), off(peak, plan), f"{row['seconds']:.3f}", *beside)
        found.append(planned(cells, peak, plan, machine))
        if all_kept not in (None, row) and machine.device == "cuda":
            less = peak < all_kept["peak_bytes"]
            found.append(Line((f"{row['method']}: the peak, times that with all kept", beside[0]), "< 1", less))
    return found


def seventy(name: str) -> Callable[[Rows, Machine], list[Line]]:
    """Return what makes the table of 70B: the peak beside the plan, tokens a second beside usual QLoRA."""

    def lines(rows: Rows, machine: Machine) -> list[Line]:
        plans = {row["scenario"]: row.get("predicted", {}) for row in rows.get("plan 70B", [])}
        real = {row["scenario"]: row["measured"] for row in rows[name]}
        usual = real.get("qlora", {}).get("tokens_per_second")
        found = []
        for scenario, row in real.items():
            if "peak_bytes" not in row:
                found.append(broken(scenario, row.get("failed", "nothing found")))
                continue
            plan, speed, peak = (
                plans[scenario].get("peak_bytes") if scenario in plans else None,
                "-",
                row["peak_bytes"],
            )
            if plans.get(scenario, {}).get("sequence") != row["sequence"]:
                plan = None  # of another length
            if usual:
                speed = f"{row['tokens_per_second'] / usual:.2f}"
            cells = (
                scenario,
                str(row["sequence"]),
                gib(peak),
                gib(plan),
                off(peak, plan),
                f"{row['tokens_per_second']:.0f}",
                speed,
            )
            found.append(planned(cells, peak, plan, machine))
            if scenario == "frugal" and machine.device == "cuda":
                found.append(Line(("frugal, 2,048 tokens", gib(peak)), f"≤ {gib(SMALL_70B)} GiB", peak <= SMALL_70B))
            if "failed" in row:
                found.append(broken(scenario, f"then {row['failed']}"))
        return found

    return lines


def predictions(name: str, key: str) -> Callable[[Rows, Machine], list[Line]]:
    """Return what makes the table of predicted peaks.

    Args:
        name: of the part.
        key: of the field that names a row.
    """

    def lines(rows: Rows, machine: Machine) -> list[Line]:
        told = [(row[key], row.get("predicted", row)) for row in rows[name]]
        wrong = [broken(name, plan["failed"]) for name, plan in told if "failed" in plan]
        return wrong + [Line((name, gib(plan["peak_bytes"]))) for name, plan in told if "peak_bytes" in plan]

    return lines


def planned(cells: Iterable[str], peak: int, plan: int | None, machine: Machine) -> Line:
    """Return a line about a peak beside its plan.

    Args:
        cells: of the line.
        peak: bytes that were measured.
        plan: bytes that were planned; None: not known yet.
        machine: plans are held to their word on GPUs alone: a tiny step on a CPU is another thing.
    """
    if plan is None or machine.device != "cuda":
        return Line(tuple(cells), "", None)
    return Line(tuple(cells), f"plan within {PLAN:.0%}", abs(plan / peak - 1) <= PLAN)
