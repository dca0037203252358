"""From the records of the fine-tuning runs to the tables and the plot."""

from collections.abc import Iterator
from statistics import geometric_mean
from textwrap import fill

from ..shared.files import write
from ..shared.ladder import rung
from ..shared.markdown import human, measured_with
from ..shared.markdown import table as markdown
from ..shared.records import Records
from ..shared.timing import least
from .budget import Budget
from .figure import draw
from .methods import METHODS, MODES
from .questions import answers
from .rows import Measured, differences, measured, with_error
from .search import Row
from .task import Task

HEADER = ["method", "trained", "learning rate", "{score}", "minus AdamW's", "state", "weights", "CPU s/step"]


def publish(records: Records, tasks: dict[str, Task]) -> str:
    """Write .md and .png beside the records; return the tables.

    Args:
        records: of all runs.
        tasks: by name.
    """
    rows = measured(records.all(), tasks)
    if not rows:
        raise SystemExit(f"no row of {records.path} has three learning rates yet: run without --table first")
    sections = [section(name, task, rows) for name, task in tasks.items() if any(row.task == name for row in rows)]
    parts = [TITLE, start_from(rows, tasks), "## Questions\n", *answers(rows, tasks), *sections]
    environment = next(iter(rows.values())).every[0]["environment"]
    write(records.path.with_suffix(".md"), "\n".join([*parts, measured_with(environment)]))
    draw(rows, tasks, records.path.with_suffix(".png"))
    return "\n".join(sections)


TITLE = """# Fine-tuning: which learning rate, how good, how many bytes of state

All runs of a task have the same steps and batches: linear warm-up over a tenth of the steps, then linear decay; no
weight decay; float32 weights, bfloat16 autocast, float32 state where nothing else is said. Each method tries three
learning rates a factor of three apart with seed 0, more while the best one is the outermost; other examples than those
reported choose it. Then other seeds run at the best: mean ± standard error, and differences seed by seed. State is the
most that `optimizer.state` held in tensors. LoRA: rank 16 on all linear layers, `lora_alpha` 32. What was not measured
yet has no row, and a mean of fewer than three seeds says so.
"""


def start_from(rows: dict[Row, Measured], tasks: dict[str, Task]) -> str:
    """Return the table of the best learning rate of every method on every task, and of the middle of them by mode.

    Args:
        rows: of all tables.
        tasks: by name.
    """
    columns = list(dict.fromkeys((row.task, row.mode) for row in rows))
    header = ["full: start from", "LoRA: start from", *(f"{tasks[t].title}, {MODES[m]}" for t, m in columns)]
    lines = [
        [METHODS[name].label, *starts, *(best_rate(rows.get(Row(*column, name))) for column in columns)]
        for name in METHODS
        if set(starts := [middle(rows, lora, name) for lora in (False, True)]) != {"–"}
    ]
    return f"## Best learning rates\n\n{RATES}\n{markdown(['method', *header], lines)}"


RATES = """The best of those tried on each task; (edge): the lowest or highest tried, so that the best may lie beyond.
"Start from" is their geometric mean over the tasks, on the ladder 1e-4, 3e-4, 1e-3: what `hybridopt
policies` shows, within a factor of three.
"""


def middle(rows: dict[Row, Measured], lora: bool, name: str) -> str:
    """Return the learning rate to start from: the geometric mean of the best ones over tasks, on the ladder.

    Args:
        rows: of all tables.
        lora: of adapters, or else of all weights.
        name: of the method.
    """
    rates = [found.lr for row, found in rows.items() if row.method == name and (row.mode != "full") == lora]
    return f"{rung(geometric_mean(rates)):g}" if rates else "–"


def best_rate(found: Measured | None) -> str:
    """Return a row's chosen learning rate for a table."""
    return "–" if found is None else f"{found.lr:g}" + " (edge)" * found.edge


def section(name: str, task: Task, rows: dict[Row, Measured]) -> str:
    """Return what stands in the page about one task.

    Args:
        name: of the task.
        task: itself.
        rows: of all tables.
    """
    own = [found for row, found in rows.items() if row.task == name]
    score = "test accuracy, %" if task.accuracy else "test loss, nats"
    lines = [cells(found, rows.get(Row(name, found.row.mode, "adamw"))) for found in own if found.runs]
    tables = (
        markdown([cell.format(score=score) for cell in HEADER], lines),
        markdown(["method", "trained", "validation, seed 0"], list(searches(own))),
    )
    about = fill(f"{' '.join(task.about.split())} {schedule(task.budget)}", 119)
    return f"## {task.title}\n\n{about}\n\n{tables[0]}\n### Learning rates tried: {task.title}\n\n{tables[1]}"


def schedule(budget: Budget) -> str:
    """Return a sentence about what the runs of a task share."""
    clipped = "not clipped" if budget.clip is None else f"clipped to norm {budget.clip:g}"
    return (
        f"{budget.steps} steps of {budget.batch} examples of at most {budget.max_length} tokens, windows "
        f"(`update_gap`) of {budget.window} steps where nothing else is said, gradients {clipped}."
    )


def cells(found: Measured, base: Measured | None) -> list[str]:
    """Return one line of a task's table; `base` is the row to compare with."""
    gains = differences(found, base) if base and base is not found else []
    cpu = least(found.every, "cpu_seconds_per_step")
    return [
        found.label,
        MODES[found.row.mode],
        best_rate(found),
        with_error(list(found.test.values()), found.accuracy),
        with_error(gains, found.accuracy, sign=True),
        human(found.state_bytes),
        human(max(run["weight_bytes"] for run in found.runs.values())),
        f"{cpu['median']:.3f}",
    ]


def searches(own: list[Measured]) -> Iterator[list[str]]:
    """Yield a line for each row: the learning rates tried, the best in bold."""
    for found in own:
        said = (f"**{shown(found, lr)}**" if lr == found.lr else shown(found, lr) for lr in sorted(found.found))
        yield [found.label, MODES[found.row.mode], ", ".join(said)]


def shown(found: Measured, lr: float) -> str:
    """Return one learning rate with what validation said of it."""
    score = found.at(lr)
    if score is None:
        return f"{lr:g}: diverged"
    return f"{lr:g}: {score:.1f}" if found.accuracy else f"{lr:g}: {score:.3f}"
