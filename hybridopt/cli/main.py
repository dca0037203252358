"""The command `hybridopt`; what takes time to import is imported inside the commands."""

import atexit
import gc
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from inspect import cleandoc
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..core.errors import NO_ROOM, HybridOptError
from ..core.version import __version__
from ..core.visible import visible
from .chat import chat
from .doctor.command import doctor
from .init import DRAFTS, init
from .inspect import inspect
from .merge import merge
from .plan import EXAMPLES, plan
from .policies import policies
from .rate import rate
from .replay import replay
from .train import EXAMPLES as WAYS
from .train import INTERRUPTED, train

__all__ = ["app", "main"]

FIRST, AFTER, MORE = "From a file to a model", "What was trained", "Optimizers and this machine"
BEGIN = """Examples:

hybridopt demo

hybridopt train ./my-model chats.jsonl --gpu 4090 --dry-run

hybridopt train ./my-model chats.jsonl -o out

hybridopt plan llama-3.1-8b --gpu 24GiB

Each command has examples of its own: hybridopt train --help
"""


class _Commands(TyperGroup):
    """Commands that say so where Ctrl-C has ended them."""

    def invoke(self, ctx: Any) -> Any:  # newer typers hand over a context of their own click
        """Carry out what was typed."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(_interrupted()) from None


def _interrupted() -> int:
    """Say that Ctrl-C was pressed, and return the status of the command."""
    print("hybridopt: interrupted", file=sys.stderr)
    return INTERRUPTED


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _offer(command: Callable[..., None], panel: str, examples: str | None = None) -> None:
    """Add a command; its help is its docstring, whose lines are put together anew for the width of the terminal."""
    paragraphs = cleandoc(command.__doc__ or "").partition("\n\nArgs:")[0].split("\n\n")
    text = "\n\n".join(" ".join(each.split()) for each in paragraphs)
    app.command(help=text, epilog=examples, rich_help_panel=panel)(command)


_offer(train, FIRST, WAYS)
_offer(init, FIRST, DRAFTS)
_offer(plan, FIRST, EXAMPLES)
_offer(chat, AFTER)
_offer(merge, AFTER)
_offer(inspect, AFTER)
_offer(replay, AFTER)
_offer(policies, MORE)
_offer(rate, MORE)
_offer(doctor, MORE)


def main() -> None:
    """Run the command; an error that hybridopt or the system explains ends it with one line and status 1."""
    atexit.register(gc.freeze)  # or Python looks for garbage in all that was imported, for a second, before it ends
    _write_all()
    try:
        app(prog_name="hybridopt")
    except HybridOptError as error:
        sys.exit(f"hybridopt: {visible(str(error))}")
    except OSError as error:
        if error.errno is None:  # of a library: no word of the system's
            raise
        sys.exit(f"hybridopt: {visible(_of_the_system(error))}")
    except KeyboardInterrupt:
        sys.exit(_interrupted())


def _write_all() -> None:
    """Let characters that the terminal's encoding does not have stand as numbers, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            with suppress(OSError):  # of a stream that was a file when it was opened, and is a pipe now
                stream.reconfigure(errors="backslashreplace")


def _of_the_system(error: OSError) -> str:
    """Return what the system could not do, and with which file."""
    where = "" if error.filename is None else f"{error.filename}: "
    full = "; make room, or give another folder" if error.errno in NO_ROOM else ""
    return f"{where}{error.strerror}{full}"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hybridopt {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]
Seed = Annotated[int, typer.Option(min=0, help="Of held-out modules, classifier, batches and dropout.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps of each run.")]
Out = Annotated[Path | None, typer.Option(file_okay=False, help="Keep the saved model here.")]
Json = Annotated[Path | None, typer.Option(dir_okay=False, help="Write the numbers to this file.")]


@app.callback(epilog=BEGIN)
def root(version: Version = False) -> None:
    """Train models that do not fit with AdamW on your GPU: on all weights or LoRA, over 16-, 8- or 4-bit weights."""


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


_offer(demo, MORE)


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

    from ..core.files import plain_json
    from .demo import job, show

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
