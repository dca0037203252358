"""The criteria of the task that was designed for Addax, fixed before its runs (DESIGN.md), and what the seeds say."""

from statistics import mean

from ..shared.markdown import human, table
from .summary import memory
from .verdict import HEADER, Pairs, pairs, verdict

AHEAD = 0.05  # of accuracy, by which long texts must carry what others lack
APART = 1.25  # times Addax's bytes, from which on a method counts as one that does not fit beside it
HARM = 0.01  # of accuracy on short texts that probes of long ones may cost
NEEDED = ("mezo", "addax", "ip-sgd", "ip-sgd-short", "ip-sgd-cut", "ip-sgd-checkpointing")
PREMISES, CLAIMS = "premise", "claim"

Line = tuple[str, str, str, bool]  # what is said, its criterion, what was measured, whether it holds


def claims(rows: dict[str, dict]) -> str:
    """Return the table of verdicts and the sentence that follows from them; empty while an arm is missing."""
    if any(f"buried-{name}" not in rows for name in NEEDED):
        return ""
    lines = [*premises(rows), *helped(rows)]
    cells = [[said, criterion, measured, verdict(holds)] for said, criterion, measured, holds in lines]
    return table(HEADER, cells) + f"\n{found(lines)}\n"


def premises(rows: dict[str, dict]) -> list[Line]:
    """Return what has to hold for the task to be of the regime at all."""
    addax, everything, short, cut, checkpointing = (
        rows[f"buried-{name}"] for name in ("addax", "ip-sgd", "ip-sgd-short", "ip-sgd-cut", "ip-sgd-checkpointing")
    )
    return [
        ahead("premise: long texts carry what short ones lack", everything, short, "IP-SGD on the short ones"),
        ahead("premise: and what long ones that were cut lack", everything, cut, "IP-SGD on short and cut ones"),
        apart("premise: gradients of long texts do not fit beside Addax", everything, addax),
        apart("premise: nor with gradient checkpointing", checkpointing, addax),
    ]


def helped(rows: dict[str, dict]) -> list[Line]:
    """Return what is claimed for Addax, the probes of long texts first."""
    addax, mezo, short, cut = (rows[f"buried-{name}"] for name in ("addax", "mezo", "ip-sgd-short", "ip-sgd-cut"))
    return [
        better("claim: the probes of long texts help", addax, short, "IP-SGD on the short ones"),
        unharmed(addax, short),
        better("claim: and more than cutting them does", addax, cut, "IP-SGD on short and cut ones"),
        better("claim: the gradients of short texts help", addax, mezo, "MeZO on everything"),
    ]


def found(lines: list[Line]) -> str:
    """Return the sentence on the regime: whether this task is of it, and whether Addax does there what it should."""
    if not all(holds for said, _, _, holds in lines if said.startswith(PREMISES)):
        return "**The task is not of the regime: a premise does not hold, so that the claims decide nothing.**"
    missing = [said.removeprefix("claim: ") for said, _, _, holds in lines if said.startswith(CLAIMS) and not holds]
    if missing:
        lacking = "; ".join(missing)
        return f"**The task is of the regime, and Addax does not do there what it should; not shown: {lacking}.**"
    return "**The task is of the regime, and Addax does there what it should.**"


def ahead(said: str, row: dict, base: dict, against: str) -> Line:
    """Return the line that one arm is clearly ahead of another on long texts.

    Args:
        said: in words.
        row: of the arm that should be ahead.
        base: of the other.
        against: the other arm in words.
    """
    compared = pairs(row, base, "long")
    criterion = f"IP-SGD on everything at least {100 * AHEAD:.0f} points above {against} on long texts, paired p < .05"
    return said, criterion, compared.text(), mean(compared.differences) >= AHEAD and compared.p < 0.05


def apart(said: str, row: dict, addax: dict) -> Line:
    """Return the line that an arm takes more memory than Addax.

    Args:
        said: in words.
        row: of the arm.
        addax: of Addax.
    """
    ratio = memory(row) / memory(addax)
    measured = f"{ratio:.2f}x ({human(memory(row))} to {human(memory(addax))})"
    return said, f"weights, state and the most a step takes: at least {APART}x Addax's", measured, ratio >= APART


def better(said: str, addax: dict, base: dict, against: str) -> Line:
    """Return the line that Addax beats another arm at equal steps.

    Args:
        said: in words.
        addax: of Addax.
        base: of the other arm.
        against: the other arm in words.
    """
    compared = pairs(addax, base)
    measured = f"{compared.text()}; long texts {pairs(addax, base, 'long').text()}"
    return (
        said,
        f"Addax better than {against} on all test texts at equal steps, paired p < .05",
        measured,
        wins(compared),
    )


def wins(compared: Pairs) -> bool:
    """Tell whether the first of two arms is better, p < .05."""
    return mean(compared.differences) > 0 and compared.p < 0.05


def unharmed(addax: dict, short: dict) -> Line:
    """Return the line that probes of long texts cost nothing on short ones."""
    compared = pairs(addax, short, "short")
    criterion = f"on short texts at most {100 * HARM:.0f} point below IP-SGD on the short ones, on average"
    return "claim: without harm to short texts", criterion, compared.text(), mean(compared.differences) >= -HARM
