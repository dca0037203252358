"""What the tables are asked: pairs of rows whose difference answers a question, and what the answer decides."""

from collections.abc import Iterator
from dataclasses import dataclass

from .methods import METHODS
from .rows import Measured, differences, with_error
from .search import Row
from .task import Task


@dataclass(frozen=True)
class Question:
    """Is `one` better than `other`? why: it is asked. Pairs are names of methods."""

    title: str
    why: str
    pairs: tuple[tuple[str, str], ...]


QUESTIONS = (
    Question(
        "FRUGAL against AdamW",
        "FRUGAL keeps AdamW's state for a quarter of the columns.",
        (("frugal", "adamw"), ("frugal-tenth", "adamw"), ("frugal-whiten", "adamw"), ("frugal-0", "adamw")),
    ),
    Question(
        "`free_lr_scale` 1 against 0.1",
        "0.1 is what FRUGAL's authors fine-tune with; each has its own best learning rate here.",
        (("frugal", "frugal-tenth"), ("frugal-0", "frugal-0-tenth")),
    ),
    Question(
        "BAdam's windows",
        "A window of a sixth of the run gives each of the six layers one turn; longer ones leave layers untrained.",
        (("badam-third", "badam"), ("badam-two", "badam"), ("badam-one", "badam"), ("badam", "adamw")),
    ),
    Question(
        "CAME with and without `bias_correction`",
        "Without it, as in the paper, first steps are 11 times as long as the learning rate says.",
        (("came-corrected", "came"), ("came", "adamw"), ("came-corrected", "adamw")),
    ),
    Question(
        "Adam-mini against AdamW",
        "Adam-mini has one second moment for a block of weights; `value_blocks` is about which.",
        (("adam_mini", "adamw"), ("adam_mini-whole", "adam_mini")),
    ),
)


def answers(rows: dict[Row, Measured], tasks: dict[str, Task]) -> Iterator[str]:
    """Yield a section for each question of which something was measured.

    Args:
        rows: of all tables.
        tasks: by name.
    """
    for question in QUESTIONS:
        lines = [line for pair in question.pairs for line in compared(pair, rows, tasks)]
        if lines:
            yield f"### {question.title}\n\n{question.why}\n\n" + "\n".join(lines) + "\n"


def compared(pair: tuple[str, str], rows: dict[Row, Measured], tasks: dict[str, Task]) -> Iterator[str]:
    """Yield a line that compares two methods, for each task and mode in which both were measured.

    Args:
        pair: names of methods.
        rows: of all tables.
        tasks: by name.
    """
    for row, one in rows.items():
        other = rows.get(Row(row.task, row.mode, pair[1]))
        if row.method == pair[0] and other and (gains := differences(one, other)):
            unit = "points" if one.accuracy else "nats (less is better)"
            said = with_error(gains, one.accuracy, sign=True)
            yield (
                f"- {METHODS[pair[0]].label} minus {METHODS[pair[1]].label}, {tasks[row.task].title}, "
                f"{row.mode}: {said} {unit}, at {one.lr:g} and {other.lr:g}{shared_rate(one, other)}."
            )


def shared_rate(one: Measured, other: Measured) -> str:
    """Return what validation says of the first where it goes by the other's best rate; nothing if that is its own."""
    if one.lr == other.lr or other.lr not in one.found:
        return ""
    same, best, digits, unit = one.at(other.lr), one.at(one.lr), 3 if one.accuracy else 4, "%" if one.accuracy else ""
    if same is None:
        return f" (at {other.lr:g} it diverges)"
    return f" (at {other.lr:g} on validation {same:.{digits}g}{unit} instead of {best:.{digits}g}{unit})"
