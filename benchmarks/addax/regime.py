"""The criteria of the task that was designed for Addax, fixed before its runs (DESIGN.md), and what the seeds say."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from ..shared.markdown import human, table
from .summary import memory
from .verdict import HEADER, pairs, verdict

AHEAD = 0.05  # of accuracy, by which long texts must carry what others lack
APART = 1.25  # times Addax's bytes, from which on a method counts as one that does not fit beside it
HARM = 0.01  # of accuracy on short texts that probes of long ones may cost
SEEDS = 3  # that a comparison of accuracies has at least
PREMISE, CLAIM = "premise", "claim"

Found = tuple[str, bool | None]  # what was measured, and whether the criterion holds; None: not decided yet


@dataclass(frozen=True)
class Line:
    """A premise or a claim: what is said of two arms, the criterion, and what decides it from their rows."""

    kind: str
    said: str
    criterion: str
    first: str
    second: str
    decide: Callable[[dict, dict], Found]

    def found(self, rows: dict[str, dict]) -> Found:
        """Return what was measured, and whether it holds; None while an arm, or a seed of it, is missing."""
        lacking = [name for name in (self.first, self.second) if rows.get(f"buried-{name}") is None]
        if lacking:
            return f"not run yet: {', '.join(lacking)}", None
        return self.decide(rows[f"buried-{self.first}"], rows[f"buried-{self.second}"])


def ahead(row: dict, base: dict) -> Found:
    """Tell whether one row is clearly ahead of another on long texts."""
    compared = pairs(row, base, "long")
    shown = mean(compared.differences) >= AHEAD and compared.p < 0.05
    return compared.text(), shown if len(compared.differences) >= SEEDS else None


def apart(row: dict, addax: dict) -> Found:
    """Tell whether a row takes clearly more memory than Addax."""
    ratio = memory(row) / memory(addax)
    return f"{ratio:.2f}x ({human(memory(row))} to {human(memory(addax))})", ratio >= APART


def better(addax: dict, base: dict) -> Found:
    """Tell whether Addax is better than another row at equal steps."""
    compared = pairs(addax, base)
    shown = mean(compared.differences) > 0 and compared.p < 0.05
    measured = f"{compared.text()}; long texts {pairs(addax, base, 'long').text()}"
    return measured, shown if len(compared.differences) >= SEEDS else None


def unharmed(addax: dict, short: dict) -> Found:
    """Tell whether probes of long texts cost nothing on short ones."""
    compared = pairs(addax, short, "short")
    shown = mean(compared.differences) >= -HARM
    return compared.text(), shown if len(compared.differences) >= SEEDS else None


LONG = f"IP-SGD on everything at least {100 * AHEAD:.0f} points above it on long texts, paired p < .05"
BYTES = f"weights, state and the most a step takes: at least {APART}x Addax's"
BETTER = "Addax better on all test texts at equal steps, paired p < .05"
UNHARMED = f"on short texts at most {100 * HARM:.0f} point below it, on average"
SHORT, CUT = "IP-SGD on the short ones", "IP-SGD on short ones and ends"

LINES = [
    Line(PREMISE, f"long texts carry what short ones lack: {SHORT}", LONG, "ip-sgd", "ip-sgd-short", ahead),
    Line(PREMISE, f"and what long ones that were cut lack: {CUT}", LONG, "ip-sgd", "ip-sgd-cut", ahead),
    Line(PREMISE, "gradients of long texts do not fit beside Addax", BYTES, "ip-sgd", "addax", apart),
    Line(PREMISE, "nor with gradient checkpointing", BYTES, "ip-sgd-checkpointing", "addax", apart),
    Line(CLAIM, f"the probes of long texts help: {SHORT}", BETTER, "addax", "ip-sgd-short", better),
    Line(CLAIM, f"without harm to short texts: {SHORT}", UNHARMED, "addax", "ip-sgd-short", unharmed),
    Line(CLAIM, f"and more than cutting them does: {CUT}", BETTER, "addax", "ip-sgd-cut", better),
    Line(CLAIM, "the gradients of short texts help: MeZO on everything", BETTER, "addax", "mezo", better),
]


def claims(rows: dict[str, dict]) -> str:
    """Return the table of verdicts and the sentence that follows from them; empty for rows of other tasks."""
    if not any(name.startswith("buried-") for name in rows):
        return ""
    found = [line.found(rows) for line in LINES]
    cells = [
        [f"{line.kind}: {line.said}", line.criterion, measured, "open" if holds is None else verdict(holds)]
        for line, (measured, holds) in zip(LINES, found, strict=True)
    ]
    return table(HEADER, cells) + f"\n{sentence([holds for _, holds in found])}\n"


def sentence(held: list[bool | None]) -> str:
    """Return what follows on the regime from whether each line holds."""
    premises, said = (
        [pair for pair in zip(LINES, held, strict=True) if pair[0].kind == kind] for kind in (PREMISE, CLAIM)
    )
    if any(holds is False for _, holds in premises):
        return "**The task is not of the regime: a premise does not hold, so that the claims decide nothing.**"
    begin = "**The task is of the regime"
    if undecided := [line.said for line, holds in premises if holds is None]:
        begin = f"**Whether the task is of the regime is open ({'; '.join(undecided)})"
    missing = [line.said for line, holds in said if holds is False]
    if missing:
        return f"{begin}, and Addax does not do there what it should; not shown: {'; '.join(missing)}.**"
    if undecided or any(holds is None for holds in held):
        return f"{begin}; no claim that is decided failed.**"
    return f"{begin}, and Addax does there what it should.**"
