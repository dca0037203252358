"""What was to be shown, the criteria fixed before the runs, and what the paired seeds say."""

import math
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from ..shared.markdown import human, spread, table
from .summary import memory

HEADER = ["claim", "criterion, fixed beforehand", "measured", "verdict"]
NEAR = 1.25  # "similar memory": at most this many times as much


@dataclass(frozen=True)
class Pairs:
    """One number a seed for two arms: the first's minus the second's."""

    differences: list[float]

    @property
    def wins(self) -> int:
        """Return at how many seeds the first arm was better."""
        return sum(difference > 0 for difference in self.differences)

    @property
    def enough(self) -> int:
        """Return four of five, and as large a share of other counts."""
        return math.ceil(0.8 * len(self.differences))

    @property
    def p(self) -> float:
        """Return the two-sided p of Student's paired t test; 1 where there is no spread to judge by."""
        count = len(self.differences)
        apart = stdev(self.differences) if count > 1 else 0.0
        return student(mean(self.differences) / (apart / count**0.5), count - 1) if apart else 1.0

    def text(self) -> str:
        """Return mean, standard deviation, wins and p in words."""
        middle, error = spread([100 * difference for difference in self.differences])
        p = f"p = {self.p:.3f}" if self.p >= 0.001 else "p < 0.001"
        return f"{middle:+.2f} ± {error:.2f} points, {self.wins} of {len(self.differences)} seeds, {p}"


def student(t: float, freedom: int) -> float:
    """Return the two-sided p of Student's t by the integral of its density over the angle: cos^(freedom - 1)."""
    angles = (np.arange(20_000) + 0.5) / 20_000 * (math.pi / 2)
    density = np.cos(angles) ** (freedom - 1)
    return float(density[angles > math.atan(abs(t) / freedom**0.5)].sum() / density.sum())


def pairs(row: dict, base: dict, part: str = "all") -> Pairs:
    """Return the test accuracy of one row minus another's, at the seeds that both have.

    Args:
        row: of one arm.
        base: of the other.
        part: "all" | "short" | "long".
    """
    seeds = [seed for seed in row["test"] if seed in base["test"]]
    return Pairs([row["test"][seed][part] - base["test"][seed][part] for seed in seeds])


def reached(curve: list[dict], accuracy: float) -> float | None:
    """Return the CPU seconds of training until validation accuracy was first as high as this; None: never."""
    return next((point["cpu_seconds"] for point in curve if point["accuracy"] >= accuracy), None)


def speedups(row: dict, base: dict) -> list[float]:
    """Return how many times sooner than `base` a row reached base's best validation accuracy, by seed.

    0: never. 1: no training was needed for it.
    """
    found = []
    for seed in (seed for seed in row["curves"] if seed in base["curves"]):
        goal = max(point["accuracy"] for point in base["curves"][seed])
        own, theirs = (reached(curves[seed], goal) for curves in (row["curves"], base["curves"]))
        assert theirs is not None  # its own best
        found.append(0.0 if own is None else theirs / own if own else 1.0)
    return found


def claims(rows: dict[str, dict]) -> str:
    """Return the table of verdicts; empty while an arm is missing."""
    needed = ("mezo", "addax", "ip-sgd", "ip-sgd-short", "ip-sgd-checkpointing")
    if any(name not in rows for name in needed):
        return ""
    mezo, addax, everything, short, checkpointing = (rows[name] for name in needed)
    lines = [
        better_line(addax, mezo),
        speed_line(addax, mezo),
        memory_line(addax, mezo),
        helps_line("the probes of long examples help", addax, short, "IP-SGD on the short ones"),
        helps_line("(could they? gradients of long examples help)", everything, short, "IP-SGD on the short ones"),
        helps_line("Addax surpasses IP-SGD", addax, everything, "IP-SGD on everything"),
        checkpointing_line(addax, checkpointing),
    ]
    return table(HEADER, lines)


def verdict(shown: bool) -> str:
    """Return the verdict in words."""
    return "supported" if shown else "**not supported**"


def better_line(addax: dict, mezo: dict) -> list[str]:
    """Return the claim that Addax beats MeZO, its criterion, what was measured, and the verdict."""
    found, sooner = pairs(addax, mezo), speedups(addax, mezo)
    faster = sum(times > 1 for times in sooner)
    shown = found.wins >= found.enough and faster >= found.enough
    criterion = (
        "test accuracy higher in 4 of 5 paired seeds, and MeZO's best validation accuracy reached sooner in 4 of 5"
    )
    measured = f"{found.text()}; sooner in {faster} of {len(sooner)}"
    return ["Addax is better than MeZO (paper: +14 points on average)", criterion, measured, verdict(shown)]


def speed_line(addax: dict, mezo: dict) -> list[str]:
    """Return the claim about speed, its criterion, what was measured, and the verdict."""
    found = sorted(speedups(addax, mezo))
    middle = found[len(found) // 2]
    measured = f"median {middle:.1f}x, from {found[0]:.1f}x to {found[-1]:.1f}x (0: never)"
    return [
        "15x faster than MeZO",
        "median over seeds of the ratio of CPU seconds is 15 or more",
        measured,
        verdict(middle >= 15),
    ]


def memory_line(addax: dict, mezo: dict) -> list[str]:
    """Return the claim about memory, its criterion, what was measured, and the verdict."""
    ratio = memory(addax) / memory(mezo)
    measured = f"{ratio:.2f}x ({human(memory(addax))} to {human(memory(mezo))})"
    criterion = f"weights, state and the most a step takes: at most {NEAR}x MeZO's"
    return ["memory similar to MeZO's", criterion, measured, verdict(ratio <= NEAR)]


def helps_line(claim: str, row: dict, base: dict, against: str) -> list[str]:
    """Return a claim that one arm beats another at equal steps, its criterion, the measurement, the verdict.

    Args:
        claim: in words.
        row: of the arm that is claimed to be better.
        base: of the other.
        against: the other arm in words.
    """
    found = pairs(row, base)
    shown = mean(found.differences) > 0 and found.p < 0.05
    return [claim, f"better than {against} at equal steps, paired p < .05", found.text(), verdict(shown)]


def checkpointing_line(addax: dict, checkpointing: dict) -> list[str]:
    """Return the claim about gradient checkpointing, its criterion, what was measured, and the verdict."""
    ratio = memory(addax) / memory(checkpointing)
    measured = f"{ratio:.2f}x; accuracy {pairs(addax, checkpointing).text()}"
    claim = "Addax takes less memory than IP-SGD with gradient checkpointing"
    return [claim, "the same bytes: below 1x", measured, verdict(ratio < 1)]
