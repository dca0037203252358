"""What the rows of every part say: a table, with what was aimed at."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .machine import Machine
from .needs import GIB

__all__ = ["VIEWS", "Line", "View"]

Rows = dict[str, list[dict[str, Any]]]  # of every part, by its name
COPY = 0.8  # share of a copy's bandwidth that elementwise updates should reach
PLAN = 0.05  # by which a measured peak may differ from the planned one
SMALL_70B = 40 * GIB  # of a 70B model's step on 2,048 tokens
ELEMENTWISE = {f"hybridopt.{name}" for name in ("adamw", "signsgd", "frugal", "frugal-rows", "frugal-0")}


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Args:
        cells: first what it is about.
        aim: what was aimed at.
        reached: was it? None where nothing was, or where nobody can tell.
    """

    cells: tuple[str, ...]
    aim: str = ""
    reached: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"line": " | ".join(self.cells), "aim": self.aim, "reached": self.reached}


@dataclass(frozen=True)
class View:
    """How a part's table is made.

    Args:
        columns: of its header.
        lines: makes the table of the rows of all parts.
    """

    columns: tuple[str, ...]
    lines: Callable[[Rows, Machine], list[Line]]


def checked(name: str) -> Callable[[Rows, Machine], list[Line]]:
    """Return what makes the table of checks: all that is not right, and how many are."""

    def lines(rows: Rows, machine: Machine) -> list[Line]:
        found = rows[name]
        wrong = [row for row in found if row["state"] == "fail"]
        seen = ", ".join(
            f"{sum(row['state'] == state for row in found)} {state}"
            for state in dict.fromkeys(row["state"] for row in found)
        )
        total = Line((f"all {len(found)}", seen), "no failure", not wrong)
        told = [row for row in found if row["state"] in ("warn", "info")]
        return [
            total,
            *(Line((row["case"], row["said"]), "", False) for row in wrong),
            *(Line((row["case"], row["said"])) for row in told),
        ]

    return lines


def counts(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of launches, waits and copies, each beside its bound."""
    found = []
    for row in rows["counts"]:
        if "failed" in row:
            found.append(Line((row["row"], row["failed"][:80]), "runs", False))
            continue
        most = row.get("most", {})
        over = [f"{kind} at most {bound}" for kind, bound in most.items() if row["counts"].get(kind, 0) > bound]
        aim = ", ".join(f"{kind} ≤ {bound}" for kind, bound in most.items())
        told = (str(row["counts"].get(kind, 0)) for kind in ("launches", "waits", "copies", "sent"))
        found.append(Line((row["row"], *told), aim, not over if most and machine.device == "cuda" else None))
    return found


def step(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of updates: times fused AdamW, and share of a copy's bandwidth."""
    found = []
    for row in rows["step"]:
        if "failed" in row:
            found.append(Line((row["row"], row["failed"][:80]), "runs", False))
            continue
        share = row["minimal_bytes"] / row["seconds"] / row["copy_bytes_per_second"]
        cells = (
            row["row"],
            f"{1e3 * row['seconds']:.1f}",
            f"{row['ratio']:.2f}",
            f"{share:.0%}",
            f"{row['first_seconds']:.1f}",
            f"{row['state_bytes_per_parameter']:.2f}",
            f"{row['peak_temporary_bytes'] / 1e6:.0f}",
        )
        aimed = row["row"] in ELEMENTWISE and machine.device == "cuda"
        found.append(Line(cells, f"{COPY:.0%} of a copy" if aimed else "", share >= COPY if aimed else None))
    return found


def mezo(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of steps of MeZO, and what they take beside two forward passes."""
    bare = next((row for row in rows["mezo"] if row["method"] == "forward" and "failed" not in row), None)
    found = []
    for row in rows["mezo"]:
        if "failed" in row:
            found.append(Line((row["method"], row["failed"][:80]), "runs", False))
        else:
            times = f"{row['seconds'] / bare['seconds']:.2f}" if bare else "-"
            found.append(Line((row["method"], f"{row['seconds']:.3f}", times, gib(row["peak_bytes"]))))
    return found


def memory(name: str) -> Callable[[Rows, Machine], list[Line]]:
    """Return what makes the table of whole steps: the peak beside the plan; fused release beside accumulating."""

    def lines(rows: Rows, machine: Machine) -> list[Line]:
        plans = {row["method"]: row for row in rows.get("plan 8B", [])}
        times = {row["method"]: row.get("seconds") for row in rows[name]}
        found = []
        for row in rows[name]:
            method = row["method"]
            if "failed" in row:
                found.append(Line((method, row["failed"][:80]), "runs", False))
                continue
            other = times.get(method.removesuffix("-fused")) if method.endswith("-fused") else None
            beside = f"{row['seconds'] / other:.2f}" if other else "-"
            plan = plans.get(method, {}).get("peak_bytes")
            cells = (method, gib(row["peak_bytes"]), gib(plan), off(row["peak_bytes"], plan), f"{row['seconds']:.2f}")
            found.append(planned((*cells, beside), row["peak_bytes"], plan, machine))
        return found

    return lines


def seventy(name: str) -> Callable[[Rows, Machine], list[Line]]:
    """Return what makes the table of 70B: the peak beside the plan, tokens a second beside usual QLoRA."""

    def lines(rows: Rows, machine: Machine) -> list[Line]:
        plans = {row["scenario"]: row.get("predicted", {}) for row in rows.get("plan 70B", [])}
        real = {row["scenario"]: row["measured"] for row in rows[name]}
        usual = real.get("qlora", {}).get("tokens_per_second")
        found = []
        for scenario, row in real.items():
            if "peak_bytes" not in row:
                found.append(Line((scenario, row.get("failed", "nothing found")[:80]), "runs", False))
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
                found.append(Line((scenario, f"then {row['failed'][:80]}"), "runs", False))
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
        wrong = [Line((name, plan["failed"][:80]), "runs", False) for name, plan in told if "failed" in plan]
        return wrong + [Line((name, gib(plan["peak_bytes"]))) for name, plan in told if "peak_bytes" in plan]

    return lines


def pretrain(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of losses."""
    found = []
    for row in rows["pretrain"]:
        loss = row["validation_loss"]
        took = row["seconds_per_step"]["median"]
        cells = (row["method"], f"{row['lr']:g}", "diverged" if loss is None else f"{loss:.3f}", f"{1e3 * took:.0f}")
        found.append(Line(cells))
    return found


def noise(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of calls that add noise."""
    return [Line((row["call"], row["dtype"], f"{row['ratio']:.2f}")) for row in rows["noise"]]


def planned(cells: Iterable[str], peak: int, plan: int | None, machine: Machine) -> Line:
    """Return a line about a peak beside its plan.

    Args:
        cells: of the line.
        peak: bytes that were measured.
        plan: bytes that were planned; None: not known yet.
        machine: plans are held to their word on GPUs alone: a tiny step on a CPU is another thing.
    """
    told = plan is not None and machine.device == "cuda"
    return Line(
        tuple(cells), f"plan within {PLAN:.0%}" if told else "", abs(plan / peak - 1) <= PLAN if told else None
    )


def gib(size: float | None) -> str:
    """Return bytes in GiB; of tiny models with more digits."""
    return "-" if size is None else f"{size / GIB:.2f}" if size > GIB / 10 else f"{size / GIB:.5f}"


def off(peak: int, plan: int | None) -> str:
    """Return by what share the plan differs."""
    return "-" if plan is None else f"{plan / peak - 1:+.1%}"


CHECKS = ("check", "result")
MEMORY = ("method", "peak GiB", "plan GiB", "off", "s/step", "times accumulate")
SEVENTY = ("scenario", "tokens", "peak GiB", "plan GiB", "off", "tokens/s", "times QLoRA")
VIEWS = {
    "plan 8B": View(("method", "planned GiB"), predictions("plan 8B", "method")),
    "plan 70B": View(("scenario", "planned GiB"), predictions("plan 70B", "scenario")),
    "self-test": View(CHECKS, checked("self-test")),
    "policies": View(CHECKS, checked("policies")),
    "counts": View(("policy", "launches", "waits", "copies waited for", "copies sent"), counts),
    "step": View(("row", "ms", "times fused AdamW", "of a copy", "first s", "state B/param", "temporary MB"), step),
    "mezo": View(("method", "s/step", "times forward", "peak GiB"), mezo),
    "memory 8B": View(MEMORY, memory("memory 8B")),
    "70B": View(SEVENTY, seventy("70B")),
    "memory large": View(MEMORY, memory("memory large")),
    "70B full": View(SEVENTY, seventy("70B full")),
    "pretrain": View(("method", "lr", "validation loss", "ms/step"), pretrain),
    "noise": View(("call", "dtype", "times p.add_(z)"), noise),
}
