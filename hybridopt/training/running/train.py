"""Carry out a run: load, train, evaluate, save."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..watching.log import LogFile
from ..watching.screen import Screen
from .failing import explained
from .finish import finish
from .interrupting import Stop, stoppable
from .loading import fetched, load_model
from .prepare import Prepared
from .quiet import quietly
from .records import begin

__all__ = ["Result", "train"]


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Args:
        folder: where everything lies.
        steps: optimizer steps taken in all.
        stopped: whether it was ended by Ctrl-C; the model is not saved then, but a checkpoint is.
        hurried: whether Ctrl-C came while the model was saved; what was to be made after that is left out.
        loss: of the last step that was logged; None: there is none.
        metrics: of the weights that are kept, by name, as they were evaluated; {}: they were not.
        best: the least eval_loss; None: there was no evaluation.
        measured: bytes by what they are for, tokens and seconds.
        planned_bytes: the planned peak.
        made: lines on what was made beside the model.
        problems: why something else that was asked for was not made; the model is saved all the same.
    """

    folder: Path
    steps: int
    stopped: bool
    loss: float | None
    metrics: Mapping[str, float]
    best: float | None
    measured: Mapping[str, Any]
    planned_bytes: int
    made: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    hurried: bool = False


def train(prepared: Prepared, console: Console | None = None) -> Result:
    """Carry out a prepared run.

    Args:
        prepared: the run.
        console: where its line is shown; None: nowhere.

    Raises:
        HybridOptError: the folder is in use, memory is short, or a loss or a gradient is no number.
    """
    with ExitStack() as undo:
        if prepared.ranks.leads:
            undo.enter_context(prepared.place.held())
            prepared.place.check(prepared.resume)
        screen = None if console is None or not prepared.ranks.leads else _screen(prepared, console, undo)
        note = print_nothing if screen is None else screen.note
        undo.enter_context(quietly(note, prepared.told))
        undo.enter_context(explained(prepared))
        folder = _begun(prepared)
        stop = undo.enter_context(stoppable(note, prepared.ranks))
        return _trained(prepared, folder, screen, stop)


def _trained(prepared: Prepared, folder: Path, screen: Screen | None, stop: Stop) -> Result:
    run, place, task = prepared.run, prepared.place, prepared.task
    model = load_model(run, folder, task, prepared.config, prepared.shards)
    job = replace(
        prepared.rehearsal.job, run=run, model=model, folder=str(place.checkpoints), callbacks=(stop.callback(),)
    )
    trainer = task.trainer(job)
    log = LogFile(place.log) if prepared.ranks.leads else None
    try:
        watching = task.watch(trainer, log, screen)
        with stop.later("a checkpoint is saved after this step, then the run ends"):
            trainer.train(resume_from_checkpoint=True if prepared.resume else None)
        if not stop.asked and job.eval is not None and not _evaluated(trainer):
            trainer.evaluate()
    finally:
        if log is not None:
            log.close()
    result = _result(prepared, trainer, watching.measured, stop.asked)
    if stop.asked:
        return result
    made, problems = (
        finish(prepared, trainer.model, result, stop) if prepared.ranks.leads or prepared.shards else ((), ())
    )
    prepared.ranks.meet()  # where one ends, torch takes the others for lost
    return replace(result, made=tuple(made), problems=tuple(problems), hurried=stop.asked)


def _begun(prepared: Prepared) -> Path:
    """Return the folder of the model; the first process fetches it, and writes down what is about to be done."""
    if prepared.ranks.leads:
        folder = fetched(prepared.run.model)
        begin(prepared, folder)
    prepared.ranks.meet()
    return folder if prepared.ranks.leads else fetched(prepared.run.model)


def _screen(prepared: Prepared, console: Console, undo: ExitStack) -> Screen:
    chosen = prepared.chosen
    found = Screen(console, prepared.rehearsal.steps, chosen.estimate.peak_bytes, chosen.room.total)
    undo.callback(found.close)
    return found


def print_nothing(text: str) -> None:
    """Say nothing."""


def _evaluated(trainer: Any) -> bool:
    """Return whether the last step was evaluated."""
    state = trainer.state
    return any(each["step"] == state.global_step and "eval_loss" in each for each in state.log_history)


def _result(prepared: Prepared, trainer: Any, measured: Mapping[str, Any], stopped: bool) -> Result:
    history = trainer.state.log_history
    losses = [each["loss"] for each in history if "loss" in each]
    evaluations = [each for each in history if "eval_loss" in each]
    kept = _kept(trainer, evaluations)
    return Result(
        folder=prepared.place.folder,
        steps=trainer.state.global_step,
        stopped=stopped,
        loss=losses[-1] if losses else None,
        metrics={name: value for name, value in kept.items() if name.startswith("eval_")},
        best=min((each["eval_loss"] for each in evaluations), default=None),
        measured=dict(measured),
        planned_bytes=prepared.chosen.estimate.peak_bytes,
    )


def _kept(trainer: Any, evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the evaluation of the weights that are kept: the last, or with early stopping the best."""
    if trainer.args.load_best_model_at_end:
        return min(evaluations, key=lambda each: each["eval_loss"], default={})
    return evaluations[-1] if evaluations else {}
