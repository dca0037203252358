"""The command `hybridopt merge`; what takes time to import is imported inside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..core.silence import without_messages

if TYPE_CHECKING:
    from ..saving.merging.merge import MergeReport

__all__ = ["merge"]

Folder = Annotated[Path, typer.Argument(help="Folder that save_pretrained wrote.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="The new model folder; an earlier result is replaced.")]
Base = Annotated[Path | None, typer.Option(help="Folder of the base model; by default the one the adapter names.")]
Dtype = Annotated[str, typer.Option(help="Of the weights: bf16, fp16 or fp32.")]
Shard = Annotated[str, typer.Option("--max-shard-size", help="Bytes of a file at most, such as 5GB.")]


def merge(folder: Folder, out: Out, base: Base = None, dtype: Dtype = "bf16", shard: Shard = "5GB") -> None:
    """Write a whole model folder, in full precision, of a base model and all that training has changed.

    Adapters, changed tensors and replayed runs are put into the base one tensor at a time, also where training had it
    quantized. The folder loads with AutoModel...from_pretrained.
    """
    with without_messages():  # of libraries that are imported
        from ..saving.merging.merge import merge as merged

        report = merged(folder, out, base, dtype, shard)
    console = Console()
    console.print(_table(report))
    for line in _notes(report):
        console.print(line, soft_wrap=True, markup=False)


def _table(report: "MergeReport") -> Table:
    from ..core.sizes import gib

    table = Table("model", "tensors", "of trained layers", "files", "size")
    numbers = (f"{report.tensors:,}", f"{report.changed:,}", f"{report.shards:,}", gib(report.size))
    table.add_row(report.architecture, *numbers)
    return table


def _notes(report: "MergeReport") -> list[str]:
    notes = [f"{report.out} holds the merged model, of the base {report.base}."]
    if report.compared:
        notes.append(f"{report.compared:,} tensors of the base have the values that were trained on.")
    else:
        notes.append(
            "No tensor of the base could be compared with what was trained on: all were changed, are new, or were "
            "codes."
        )
    if report.inactive:
        notes.append(f"Adapters that were switched off are not in it: {', '.join(report.inactive)}.")
    return notes
