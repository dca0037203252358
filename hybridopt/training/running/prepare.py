"""Everything about a run that can be known before its model is loaded."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ...core.contracts import TrainingJob, TrainingTask
from ...core.errors import HybridOptError
from ...core.registry import make
from ...core.sizes import gib
from ..config.run import AUTO, Run
from ..data.reading import read
from ..data.template import check_chats, padding_told, tokenizer_for
from .loading import config_of
from .preparing.choosing import chosen_for, less_than, with_head
from .preparing.lengths import check_positions, check_words, positions_of, with_lengths
from .preparing.rehearsal import Rehearsal, rehearse
from .preparing.telling import told_of
from .preparing.weights import check_matching, check_weights
from .quiet import quietly
from .ranks import ALONE, Ranks, check_launcher
from .resuming import check_data, resumed
from .run_folder import Place
from .sharing import sharing_told
from .trackers import check_trackers
from .versions import versions, versions_told

__all__ = ["Prepared", "prepare"]

MANY = 20_000  # examples, which take seconds to tokenize


@dataclass(frozen=True)
class Prepared:
    """A run, ready to be carried out; nothing is loaded.

    Args:
        run: with all that was "auto" filled in.
        task: what is learnt.
        config: of the model, with the task's output layer.
        examples: what is learnt from.
        rehearsal: what training makes of them.
        chosen: the method, with the estimate of its bytes and the memory that it is for.
        place: where everything is written.
        resume: whether a run is gone on with.
        told: lines for people.
        ranks: the processes that carry it out together.
    """

    run: Run
    task: TrainingTask
    config: Any
    examples: Any
    rehearsal: Rehearsal
    chosen: Any
    place: Place
    resume: bool
    told: tuple[str, ...]
    ranks: Ranks = ALONE

    @property
    def shards(self) -> bool:
        """Return whether each process keeps its rows of the model alone."""
        return self.ranks.world.size > 1 and self.run.parallel == "fsdp"

    @property
    def fits(self) -> bool:
        """Return whether the plan fits beside its margin."""
        return bool(self.chosen.fits)

    def plan_line(self) -> str:
        """Return a line that compares what is planned with the memory that there is."""
        peak, room = self.chosen.estimate.peak_bytes, self.chosen.room
        usable = f"{gib(room.usable)} of {room.card or 'the GPU'}: {gib(room.total)}, less {gib(room.kept)} kept free"
        if self.fits:
            return f"It fits: {gib(peak)} planned, {gib(room.usable - peak)} to spare ({usable})"
        return f"It does not fit: {gib(peak)} planned, {gib(peak - room.usable)} too much ({usable})"

    def less(self) -> str | None:
        """Return the least change of the run that takes less memory, as a line of YAML; None where there is none."""
        return less_than(self.run, self.task, self.config, self.rehearsal)


def prepare(
    asked: Run,
    *,
    allow_code: bool = False,
    resume: bool = False,
    must_fit: bool = True,
    dry: bool = False,
    console: Any = None,
    ranks: Ranks = ALONE,
) -> Prepared:
    """Read and check all of a run but the model's weights, rehearse its examples, and plan its memory.

    Args:
        asked: what is wanted.
        allow_code: whether functions that the run names may be imported.
        resume: whether the run in the output folder is to be gone on with.
        must_fit: whether a method is refused that does not fit beside the margin.
        dry: whether nothing will be written, so that the output folder may be one that no run can begin in.
        console: of rich, for the progress of reading large files; None: nothing is shown.
        ranks: the processes of the run. All of them read the examples; the first plans for all.

    Raises:
        HybridOptError: anything that stands in the way of the run, before anything is loaded or written.
    """
    check_launcher(os.environ)
    place = Place(asked.output.folder)
    place.check(resume) if resume or not dry else place.check_writable()
    run = resumed(asked, place, ranks.world.size) if resume else asked
    early = None if run.task == AUTO else _task(run.task, run.task_options, allow_code)
    with quietly():
        check_trackers(run.train.report_to)
        settings = config_of(run.model)
        check_weights(run.model)
        examples = read(run.data, run.train.seed, console)
        if resume:
            check_data(place, examples.files)
        task = early or _task(examples.format.task_for("--task grpo"), run.task_options, allow_code)
        task.check(run, examples.format.name)
        with _told_that_it_takes_long(len(examples.train), console):
            prepared = _rehearsed(run, task, settings, examples, _Order(place, resume, must_fit, ranks))
        check_matching(run.model, settings if task.head == "causal" else prepared.config, task.head)
        ranks.meet()  # nothing is written before all have come so far
    return prepared


@contextmanager
def _told_that_it_takes_long(rows: int, console: Any) -> Iterator[None]:
    """Say within that examples are tokenized, where there are so many that nothing would be said for long.

    Args:
        rows: examples.
        console: of rich; None: nothing is said.
    """
    text = f"tokenizing {rows:,} examples, and planning"
    if console is None or rows < MANY:
        yield
    elif console.is_terminal and not console.is_dumb_terminal:  # where a spinner would show nothing
        with console.status(text):
            yield
    else:
        console.print(text, highlight=False)
        yield


@dataclass(frozen=True)
class _Order:
    """Where a run is to be written, whether it is gone on with, whether it has to fit, and who carries it out."""

    place: Place
    resume: bool
    must_fit: bool
    ranks: Ranks


def _rehearsed(run: Run, task: TrainingTask, settings: Any, examples: Any, order: _Order) -> Prepared:
    """Return a run whose examples were put through its trainer, and whose method is planned."""
    tokenizer = tokenizer_for(run.model, run.data, examples.conversational, task.head != "classes")
    check_chats(tokenizer, examples)
    config = with_head(settings, task, examples.labels)
    check_words(tokenizer, config, run)
    positions = positions_of(config)
    run = with_lengths(run, task, positions)
    job = TrainingJob(run, None, tokenizer, examples.train, examples.eval, examples.labels)
    limit = int(run.data.max_length) if task.cuts else None
    job = replace(job, max_length=limit, packed=bool(run.data.packing))
    run = replace(run, data=replace(run.data, loss_on=task.loss_on(job), format=examples.format.name))
    run = replace(run, task=type(task).__module__.rpartition(".")[2])
    rehearsal = rehearse(task, replace(job, run=run))
    check_positions(rehearsal, task, positions)
    chosen = order.ranks.from_first(lambda: chosen_for(run, task, config, rehearsal, order.must_fit))
    read = (*_gone_on(run, order), *examples.told, *padding_told(tokenizer))
    told = (*read, *told_of(rehearsal, examples, run, order.ranks.world.size), *chosen.told)
    job = replace(rehearsal.job, run=chosen.run)
    rehearsal = replace(rehearsal, job=job)
    found = Prepared(chosen.run, task, config, examples, rehearsal, chosen, order.place, order.resume, told)
    return replace(found, ranks=order.ranks)


def _gone_on(run: Run, order: _Order) -> list[str]:
    """Return lines on what is otherwise than when a run began that is gone on with."""
    if not order.resume:
        return []
    other = versions_told(order.place.before[1].get("versions") or {}, versions())
    return [*other, *sharing_told(run, order.ranks.world.size, order.place)]


def _task(name: str, options: Mapping[str, Any], allow_code: bool) -> TrainingTask:
    """Return a task; HybridOptError for code that its options name and nobody has allowed, before it is imported."""
    task: TrainingTask = make("tasks", name, **options)
    if task.code is not None and not allow_code:
        raise HybridOptError(
            f"task={name!r} is to run {task.code!r}, which is code of this machine; if you know what it does, add "
            "--allow-code"
        )
    return task
