"""The command `hybridopt replay`; what takes time to import is imported inside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..core.silence import without_messages

if TYPE_CHECKING:
    from ..saving.rebuilding.replay import ReplayReport

__all__ = ["replay"]

Base = Annotated[Path, typer.Argument(help="Folder of the base model, with *.safetensors, or one such file.")]
Adapters = Annotated[list[Path], typer.Argument(help="Folders that save_pretrained wrote, in the order of training.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Where the rebuilt model is written; nothing may be there.")]
Upto = Annotated[int | None, typer.Option(help="Steps of the run to make; all by default.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu or cuda.")]
Pooled = Annotated[bool, typer.Option("--pooled", help="One pass a direction, not a step; equal up to rounding only.")]


def replay(
    base: Base, adapters: Adapters, out: Out, upto: Upto = None, device: Device = "cpu", pooled: Pooled = False
) -> None:
    """Rebuild trained weights, to the bit, from a base model and the scalars of runs trained by losses alone.

    Several adapters are applied one after the other; those that were trained on the same base are added.
    """
    with without_messages():  # of libraries that are imported
        from ..saving.rebuilding.replay import Replay

        work = Replay(base, adapters, upto, pooled)
    console = Console()
    with Progress(TextColumn("replaying"), BarColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=work.work)
        report = work.write(out, device, lambda done: progress.advance(task, done))
        progress.update(task, completed=work.work)
    console.print(_table(report))
    console.print(_verdict(report, out), soft_wrap=True)


def _table(report: "ReplayReport") -> Table:
    table = Table("steps", "directions", "parameters", "seconds", "ns per parameter and direction")
    numbers = (report.steps, report.directions, report.parameters)
    table.add_row(*(f"{n:,}" for n in numbers), f"{report.seconds:.1f}", f"{report.cost:.3f}")
    return table


def _verdict(report: "ReplayReport", out: Path) -> str:
    if report.verified:
        return f"{out} holds the trained weights to the bit: all checksums agree."
    return (
        f"{out} is not verified by checksums: sums of pooled directions, and of adapters trained on the same base, "
        "equal the exact result up to rounding only, and of the middle of a run no checksum is kept."
    )
