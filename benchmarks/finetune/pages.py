"""What the README and docs/benchmarks.md show of the fine-tuning tables."""

from ..shared.markdown import human
from ..shared.markdown import table as markdown
from ..shared.readme_marks import Block
from .methods import METHODS, MODES
from .questions import answers
from .rows import Measured, measured, with_error
from .search import Row
from .tasks import tasks

SHOWN = ("adamw", "frugal", "signsgd", "adam_mini", "came-corrected", "badam", "galore")
COMMAND = "python -m benchmarks.finetune --write"


def overview(records: list[dict]) -> str:
    """Return a table of the methods of SHOWN that have two seeds or more, on two tasks where all weights are trained.

    Args:
        records: of all runs.
    """
    known = tasks()
    rows = {row: found for row, found in measured(records, known).items() if len(found.runs) > 1}
    columns = [name for name in known if any(row.task == name for row in rows)]
    lines = [
        line(rows, columns, mode, name)
        for mode in MODES
        for name in SHOWN
        if sum(Row(task, mode, name) in rows for task in columns) > (mode == "full")
    ]
    scores = [f"{known[name].title}, {'%' if known[name].accuracy else 'nats'}" for name in columns]
    return markdown(["method", *scores, "optimizer state (first of them)"], lines)


def line(rows: dict[Row, Measured], columns: list[str], mode: str, name: str) -> list[str]:
    """Return the line of one method in one mode.

    Args:
        rows: measured.
        columns: names of tasks.
        mode: all weights or LoRA.
        name: of the method.
    """
    own = [rows.get(Row(task, mode, name)) for task in columns]
    label = METHODS[name].label + (f", {MODES[mode]}" if mode != "full" else "")
    scores = [with_error(list(one.test.values()), one.accuracy) if one else "–" for one in own]
    return [label, *scores, human(next(one.state_bytes for one in own if one))]


def questions(records: list[dict]) -> str:
    """Return the answers of the tables to what they were asked."""
    known = tasks()
    return "\n".join(answers(measured(records, known), known))


BLOCKS = (Block("finetune", COMMAND, overview), Block("finetune_questions", COMMAND, questions))
