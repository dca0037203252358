"""What the rows of every part say: a table, with what was aimed at."""

from collections.abc import Callable
from typing import Any

from .line import Line, Rows, View, broken, gib
from .machine import Machine
from .peaks import memory, predictions, sampled, seventy
from .placement import placement, placement_plans
from .runs import trained

__all__ = ["VIEWS"]

COUNTED = {  # what a step asks of the device, and what it is called
    "launches": "launches",
    "waits": "waits",
    "copies": "copies waited for",
    "sent": "copies sent",
    "midway": "stops in backward",
}
LACKS = "is not installed"  # in the reason of what is refused here, and would run elsewhere
COPY = 0.8  # share of a copy's bandwidth that elementwise updates should reach
ELEMENTWISE = {f"hybridopt.{name}" for name in ("adamw", "signsgd", "frugal", "frugal-rows", "frugal-0")}


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
        told = [row for row in found if row["state"] in ("warn", "info") or LACKS in row["said"] and row not in wrong]
        return [
            total,
            *(Line((row["case"], with_cure(row)), "", False) for row in wrong),
            *(Line((row["case"], with_cure(row))) for row in told),
        ]

    return lines


def with_cure(row: dict[str, Any]) -> str:
    """Return what a check has said, and what to do about it."""
    return f"{row['said']}: {row['cure']}" if row.get("cure") else row["said"]


def counts(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of launches, waits and copies, each beside its bound."""
    found = []
    for row in rows["counts"]:
        if "failed" in row:
            found.append(broken(row["row"], row["failed"]))
            continue
        most = {COUNTED[kind]: bound for kind, bound in row.get("most", {}).items()}
        seen = {word: row["counts"].get(kind, 0) for kind, word in COUNTED.items()}
        over = [word for word, bound in most.items() if seen[word] > bound]
        aim = ", ".join(f"{word} ≤ {bound}" for word, bound in most.items())
        found.append(
            Line((row["row"], *map(str, seen.values())), aim, not over if most and machine.device == "cuda" else None)
        )
    return found


def step(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of updates: times fused AdamW, and share of a copy's bandwidth."""
    found = []
    for row in rows["step"]:
        if "failed" in row:
            found.append(broken(row["row"], row["failed"]))
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
            found.append(broken(row["method"], row["failed"]))
        else:
            times = f"{row['seconds'] / bare['seconds']:.2f}" if bare else "-"
            found.append(Line((row["method"], f"{row['seconds']:.3f}", times, gib(row["peak_bytes"]))))
    return found


def pretrain(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of losses."""
    found = []
    for row in rows["pretrain"]:
        loss = row["reporting_loss"]
        took = row["seconds_per_step"]["median"]
        cells = (row["method"], f"{row['lr']:g}", "diverged" if loss is None else f"{loss:.3f}", f"{1e3 * took:.0f}")
        found.append(Line(cells))
    return found


def noise(rows: Rows, machine: Machine) -> list[Line]:
    """Return the table of calls that add noise."""
    return [
        broken(f"{row['call']}, {row['dtype']}", row["failed"])
        if "failed" in row
        else Line((row["call"], row["dtype"], f"{row['ratio']:.2f}"))
        for row in rows["noise"]
    ]


CHECKS = ("check", "result")
MEMORY = ("method", "peak GiB", "plan GiB", "off", "s/step", "times accumulate")
SEVENTY = ("scenario", "tokens", "peak GiB", "plan GiB", "off", "tokens/s", "times QLoRA")
PLACEMENT = ("layers", "tokens", "peak GiB", "plan GiB", "off", "tokens/s", "times on the device", "stalled")
VIEWS = {
    "plan 8B": View(("method", "planned GiB"), predictions("plan 8B", "method")),
    "plan 70B": View(("scenario", "planned GiB"), predictions("plan 70B", "scenario")),
    "plan placement": View(("layers", "planned GiB"), placement_plans),
    "plan sampled": View(("method", "planned GiB"), predictions("plan sampled", "method")),
    "self-test": View(CHECKS, checked("self-test")),
    "policies": View(CHECKS, checked("policies")),
    "counts": View(("policy", *COUNTED.values()), counts),
    "step": View(("row", "ms", "times fused AdamW", "of a copy", "first s", "state B/param", "temporary MB"), step),
    "mezo": View(("method", "s/step", "times forward", "peak GiB"), mezo),
    "memory 8B": View(MEMORY, memory("memory 8B")),
    "sampled": View((*MEMORY[:5], "peak, times all kept", "s/step, times all kept"), sampled),
    "train": View(("way", "peak GiB", "plan GiB", "off", "tokens/s", "first loss", "last loss"), trained),
    "70B": View(SEVENTY, seventy("70B")),
    "placement": View(PLACEMENT, placement),
    "memory large": View(MEMORY, memory("memory large")),
    "70B full": View(SEVENTY, seventy("70B full")),
    "pretrain": View(("method", "lr", "held-out loss", "ms/step"), pretrain),
    "noise": View(("call", "dtype", "times p.add_(z)"), noise),
}
