"""The command `hybridopt`; what takes time to import is imported inside the commands."""

import atexit
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from inspect import cleandoc
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..core.errors import NO_ROOM, HybridOptError
from ..core.printable import visible
from ..core.version import __version__
from .chat import chat
from .demo.command import demo
from .doctor.command import doctor
from .init import DRAFTS, init
from .inspect import inspect
from .merge import merge
from .plan.command import EXAMPLES, plan
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
_offer(demo, MORE)


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


@app.callback(epilog=BEGIN)
def root(version: Version = False) -> None:
    """Train models that do not fit with AdamW on your GPU: on all weights or LoRA, over 16-, 8- or 4-bit weights."""
