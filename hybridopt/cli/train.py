"""The command `hybridopt train`; what takes time to import is imported inside."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..core.errors import HybridOptError
from ..core.launch_environment import World, launched, world
from ..core.printable import visible
from .grouped import grouped

if TYPE_CHECKING:
    from ..training.config.reading import OptionValue
    from ..training.config.run import Run
    from ..training.running.prepare import Prepared
    from ..training.running.run_folder import Place
    from ..training.running.train import Result

__all__ = ["EXAMPLES", "check_installed", "train"]

EXAMPLES = """Examples:

hybridopt train ./my-model chats.jsonl -o out

hybridopt train Qwen/Qwen3-8B chats.jsonl --gpu 4090 --dry-run

hybridopt train ./my-model pairs.jsonl --task dpo --set task_options.beta=0.2 --set train.lr=1e-5

hybridopt train run.yaml --set train.epochs=3 --resume

torchrun --nproc-per-node 2 -m hybridopt train run.yaml
"""

NEEDED = ("trl", "datasets", "accelerate")
YAML = (".yaml", ".yml")
BEGUN = "Loading the model, then training (memory: now/peak/planned; Ctrl-C saves a checkpoint and ends)"
INTERRUPTED = 128 + signal.SIGINT

What = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL DATA... | run.yaml", help="A model folder or hub id, and files of examples; or a run.yaml."
    ),
]
Task = Annotated[
    str | None, typer.Option(help="sft, dpo, reward, grpo, classify or text; by default what the data is for.")
]
Gpu = Annotated[str | None, typer.Option(help="To plan for: a card (4090, h100), 24GiB, or auto for this machine.")]
Out = Annotated[
    str | None, typer.Option("-o", "--out", metavar="<path>", help="Folder of everything that is written.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="key=value of run.yaml, such as train.lr=2e-4; may be repeated.")
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Check, show and plan everything; load and write nothing.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last complete checkpoint in the folder.")]
Code = Annotated[bool, typer.Option("--allow-code", help="Let a reward function that the run names be imported.")]
Force = Annotated[bool, typer.Option("--force", help="Train although the plan does not fit.")]


@dataclass(frozen=True)
class AskedRun:
    """Settings of the run that have options."""

    task: Task = None
    gpu: Gpu = None
    out: Out = None
    sets: Sets = None

    @property
    def settings(self) -> list["str | OptionValue"]:
        """Return all settings in order; those that have options of their own win."""
        from ..training.config.reading import OptionValue

        given = (("task", self.task, "--task"), ("gpu", self.gpu, "--gpu"), ("output.folder", self.out, "--out"))
        own = [OptionValue(key, value, name) for key, value, name in given if value is not None]
        return [*(self.sets or ()), *own]


@dataclass(frozen=True)
class AskedManner:
    """How the command goes about the run."""

    dry_run: Dry = False
    resume: Resume = False
    allow_code: Code = False
    force: Force = False

    @property
    def preparing(self) -> dict[str, bool]:
        """Return these as `prepare` takes them."""
        kept = {"allow_code": self.allow_code, "resume": self.resume}
        return {**kept, "must_fit": not self.force, "dry": self.dry_run}


@grouped
def train(what: What, asked: AskedRun, how: AskedManner) -> None:
    """Train a model on a file of examples, and leave a folder that others load as it is.

    First everything is read and checked, the first example is shown with the tokens that are learnt, and the memory of
    exactly this run is planned; only then is the model loaded. Exits with status 1 where it does not fit.
    """
    from ..training.running.preparing.preflight import check_there

    processes = world()
    try:
        run = _run(what, asked.settings)
        check_installed()
        if processes.size == 1:  # several have to wait for each other first
            check_there(run, None if how.dry_run and not how.resume else how.resume)
    except HybridOptError:
        if processes.leads:
            raise
        raise SystemExit(1) from None  # the first process says it for all
    from ..training.running.prepare import prepare
    from ..training.running.ranks import joined

    console = Console(quiet=not processes.leads)
    with joined(processes) as ranks:
        with _interruptible(console):
            prepared = prepare(run, **how.preparing, console=console, ranks=ranks)
        if processes.leads:
            _show(prepared, console)
        if how.dry_run:
            for line in _dry(prepared):
                _say(console, line)
        status = 0 if how.dry_run else _carry_out(prepared, console)
    if status:
        raise typer.Exit(status)


def _run(what: list[str], sets: Sequence["str | OptionValue"]) -> "Run":
    """Return the run that is asked for; torch is not imported for that."""
    from ..training.config.reading import read_run, run_of

    if what[0].endswith(YAML):
        if len(what) > 1:
            raise HybridOptError(
                f"{what[1]!r} is one too many: {what[0]} says which data to take; change it by --set data.train=..."
            )
        return read_run(Path(what[0]), sets)
    return run_of(what[0], what[1:], sets)


def check_installed() -> None:
    """Raise HybridOptError where a library that training needs is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise HybridOptError(
            f"training needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            'pip install "hybridopt[train]", or in a checkout pip install -e ".[train]"'
        )


def _show(prepared: "Prepared", console: Console) -> None:
    from ..training.running.preparing.preview import preview

    for line in prepared.told:
        _say(console, line)
    for text in preview(prepared.rehearsal, console):
        console.print(text, soft_wrap=True)
    _say(console, prepared.plan_line())
    if prepared.run.parallel == "fsdp" and prepared.ranks.world.size == 1:
        _say(console, _to_share(prepared))


def _to_share(prepared: "Prepared") -> str:
    """Return a line that says by which command several processes share a model that this one has alone."""
    import torch

    words = sys.argv[1:] if sys.argv[1:2] == ["train"] else ["train", str(prepared.place.run)]
    start = f"{launched(torch.cuda.device_count())} {join(words)}"
    return f"parallel=fsdp: this process is alone, and has the whole model; to share it: {start}"


def _dry(prepared: "Prepared") -> list[str]:
    """Return lines that say that nothing was done, and what would keep the run itself from its output folder."""
    said = ["This was a dry run: nothing is loaded, and nothing written."]
    try:
        prepared.place.check(prepared.resume)
    except HybridOptError as error:
        said.append(f"The run itself is refused where it would be written: {error}")
    return said


@contextmanager
def _interruptible(console: Console) -> Iterator[None]:
    """Say, after Ctrl-C within, that nothing has been done yet."""
    try:
        yield
    except KeyboardInterrupt:
        _say(console, "Interrupted: nothing is loaded, and nothing written.")
        raise SystemExit(INTERRUPTED) from None


def _carry_out(prepared: "Prepared", console: Console) -> int:
    """Carry out a run, say how it ended, and return the status of the command."""
    from ..training.running.train import train as carried_out

    again = f"{_started_by(prepared.ranks.world)} train {quote(str(prepared.place.run))} --resume"
    _say(console, BEGUN)
    try:
        result = carried_out(prepared, console)
    except KeyboardInterrupt:
        _say(console, _interrupted(prepared.place, again))
        return INTERRUPTED
    if result.stopped:
        _say(console, f"Ended after step {result.steps}, with a checkpoint. Go on with: {again}")
        return INTERRUPTED
    _show_end(prepared, result, console)
    return INTERRUPTED if result.hurried else 0


def _interrupted(place: "Place", again: str) -> str:
    """Say what is there after Ctrl-C has ended a run at once."""
    if place.finished:
        return f"Interrupted. The trained model lies in {place.folder}"
    return f"Interrupted. Go on with: {again}" if place.saved else "Interrupted before the first checkpoint."


def _started_by(processes: World) -> str:
    """Return the beginning of a command that starts as many processes as there are."""
    return "hybridopt" if processes.size == 1 else launched(processes.size)


def _say(console: Console, line: str) -> None:
    """Print a line as it is: whole, with names that look like markup, and with control characters as numbers."""
    console.print(visible(line), soft_wrap=True, markup=False, highlight=False)


def _show_end(prepared: "Prepared", result: "Result", console: Console) -> None:
    from ..training.running.ending import ending

    for line in ending(prepared, result):
        _say(console, line)
    if result.problems:
        raise HybridOptError("; ".join(result.problems))
