"""Tables, curves and sentences by which the demo shows its numbers in a terminal."""

import math
from collections.abc import Sequence
from typing import TypedDict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ...core.sizes import human
from ...training.watching.sparkline import sparkline
from .result import DemoData, DemoRun, Reload

__all__ = ["Live", "curves", "data_line", "live", "next_lines", "progress", "reload_line", "runs_table"]

LIVE, WIDE = 16, 40  # characters of a loss curve


class Live(TypedDict):
    """Fields of the progress bar: the mean of the last losses, and their curve so far."""

    loss: str
    curve: str


def progress(console: Console) -> Progress:
    """Make a progress bar that shows the fields of `Live`, which its `add_task` and `update` take."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[curve]}"),
        TimeElapsedColumn(),
        console=console,
    )


def live(losses: Sequence[float], classes: int) -> Live:
    """Return what the progress bar shows of the losses so far; `classes` scales the curve."""
    recent = losses[-8:]
    return {"loss": f"{sum(recent) / len(recent):.2f}", "curve": sparkline(losses, LIVE, _top(classes))}


def data_line(data: DemoData) -> str:
    """Describe the classification task and its sizes."""
    return (
        f"Task: from which of {len(data.labels)} standard-library packages is a text? {data.train} texts of "
        f"{data.train_modules} modules train, {data.test} texts of {data.test_modules} other modules test "
        f"({data.dropped} training texts that resembled a test text were dropped)."
    )


def curves(runs: Sequence[DemoRun], classes: int) -> Table:
    """Return a table of the loss curves of all runs, on one scale, with the mean of the first and last tenth."""
    table = Table("run", "loss, from guessing down", "start", "end", title="Training loss")
    for run in runs:
        share = max(1, len(run.losses) // 10)
        ends = (sum(part) / share for part in (run.losses[:share], run.losses[-share:]))
        table.add_row(run.title, sparkline(run.losses, WIDE, _top(classes)), *(f"{end:.2f}" for end in ends))
    return table


def runs_table(runs: Sequence[DemoRun], data: DemoData) -> Table:
    """Return a table of accuracy on the held-out modules, bytes and seconds of every run."""
    table = Table(title="Held-out accuracy, and bytes measured on the tensors")
    table.add_column("run", no_wrap=True)
    for name in ("accuracy, %", "weights", "gradients", "state", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        sizes = map(human, (run.weight_bytes, run.grad_bytes, run.state_bytes))
        table.add_row(run.title, _rounded(run.accuracy, data), *sizes, f"{run.seconds:.0f}")
    table.add_section()
    table.add_row("one label for all", _rounded(data.floor, data))
    table.caption = f"±: standard error over {data.test} texts; runs closer than twice that are alike."
    return table


def _rounded(accuracy: float, data: DemoData) -> str:
    return f"{100 * accuracy:.1f} ± {100 * data.error(accuracy):.1f}"


def reload_line(reload: Reload) -> str:
    """Describe what was saved of the last run, and how the loaded model's outputs compare."""
    size = human(sum(reload.files.values()))
    logits = "are equal bit for bit" if reload.identical else f"differ by up to {reload.largest_difference:.2g}"
    return (
        f"Saved {len(reload.files)} files ({size}) to {reload.folder}, loaded onto a fresh base: "
        f"{reload.agreeing} of {reload.predictions} predictions agree, the logits {logits}."
    )


def next_lines() -> str:
    """Return the commands to type next."""
    return (
        "Next, what fits on your GPU:\n  hybridopt plan llama-3.1-8b --gpu 4090\n"
        "and with a model and a file of examples of your own:\n"
        "  hybridopt train MODEL examples.jsonl --dry-run"
    )


def _top(classes: int) -> float:
    """Return the top of a loss curve: a tenth above ln(classes), the loss of guessing."""
    return 1.1 * math.log(classes)
