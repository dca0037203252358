"""The command `hybridopt demo`; what takes time to import is imported inside it."""

import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

__all__ = ["demo"]

Seed = Annotated[int, typer.Option(min=0, help="Of held-out modules, classifier, batches and dropout.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps of each run.")]
Out = Annotated[Path | None, typer.Option(file_okay=False, help="Keep the saved model here.")]
Json = Annotated[Path | None, typer.Option(dir_okay=False, help="Write the numbers to this file.")]


def demo(seed: Seed = 0, steps: Steps = 64, out: Out = None, json: Json = None) -> None:
    """Fine-tune a pretrained encoder in three ways and compare accuracy, bytes and time; about 2 minutes on 2 cores.

    The task: tell from which standard-library package a text comes, on modules never trained on. AdamW on all weights,
    FRUGAL on all weights, and FRUGAL on LoRA over an nf4 base; the last is saved, loaded and checked. Exits with
    status 1 if a run learned nothing or the loaded model predicts otherwise.
    """
    _check_places(out, json)
    with nullcontext(out) if out else TemporaryDirectory(prefix="hybridopt-") as folder:
        problems = _demo(Path(folder), seed, steps, json)
    if problems:
        sys.exit("\n".join(f"hybridopt: {problem}" for problem in problems))


def _check_places(out: Path | None, json: Path | None) -> None:
    """Refuse, before the work is done, places where its results cannot be written; makes the folder `out`."""
    if json is not None and not json.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {json.absolute().parent}", param_hint="--json")
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{out} cannot be made: {error.strerror}", param_hint="--out") from error


def _demo(folder: Path, seed: int, steps: int, json: Path | None) -> list[str]:
    """Run the demo, print its tables and write its numbers to `json`; return what went wrong."""
    from rich.console import Console

    from ...core.files import plain_json
    from . import job, show

    console = Console()
    result = job.demo(folder, seed, steps, console)
    console.print(show.runs_table(result.runs, result.data))
    console.print(show.reload_line(result.reload), soft_wrap=True)
    console.print(f"{result.seconds:.0f} seconds in all.")
    if json is not None:
        plain_json.write(json, result.as_dict())
    if not (problems := result.problems()):
        console.print(show.next_lines(), highlight=False)
    return problems
