"""A run without its model: the task's own trainer on a stand-in, so that tokens, cuts and steps are those to come."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

from ....core.contracts import TokenPiece, TrainingJob, TrainingTask
from ....core.errors import HybridOptError
from .stand_in import stand_in

__all__ = ["Counts", "Rehearsal", "rehearse"]

AT_ONCE = 64  # rows that are counted together; each may have millions of tokens


@dataclass(frozen=True)
class Counts:
    """Tokens of examples before they are cut.

    Args:
        rows: examples.
        tokens: of all of them.
        trained: of these, how many the loss counts.
        longest: tokens of the longest sequence.
        too_long: examples with a sequence longer than is allowed.
        lost: tokens beyond that length.
        untrained: numbers of the examples of which no token is trained, from 0.
    """

    rows: int = 0
    tokens: int = 0
    trained: int = 0
    longest: int = 0
    too_long: int = 0
    lost: int = 0
    untrained: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rehearsal:
    """What training is going to do with its examples.

    Args:
        train: counts of the training examples.
        eval: counts of those that are held out; None without.
        rows: rows of the trainer's own dataset, after cutting, leaving out and packing.
        packed: whether several examples share a row.
        max_length: tokens of a row at most; None: they are not cut.
        steps_of_epoch: optimizer steps of a pass over the rows.
        steps: optimizer steps in all.
        first: sequences of the first example.
        job: the examples as a trainer of this task takes them: prepared, where it can reuse that.
    """

    train: Counts
    eval: Counts | None
    rows: int
    packed: bool
    max_length: int | None
    steps_of_epoch: int
    steps: int
    first: tuple[TokenPiece, ...]
    job: TrainingJob

    @property
    def longest(self) -> int:
        """Return the tokens of the longest sequence that is ever put through the model."""
        longest = max(self.train.longest, self.eval.longest if self.eval else 0)
        if self.max_length is None:
            return longest
        return self.max_length if self.packed else min(longest, self.max_length)

    @property
    def dropped(self) -> int:
        """Return the number of training examples that are left out."""
        return 0 if self.packed else self.train.rows - self.rows


def rehearse(task: TrainingTask, job: TrainingJob) -> Rehearsal:
    """Prepare all examples as training will, and count what comes of them.

    Args:
        task: what is learnt.
        job: of the run; its model is not looked at.

    Raises:
        HybridOptError: no token of any example is trained, or no example is short enough.
    """
    with TemporaryDirectory(prefix="hybridopt-") as folder:
        model = stand_in(task.head, len(job.labels))
        unloaded = replace(job, model=model, folder=folder, rehearsed=True, callbacks=())
        whole = task.trainer(replace(unloaded, max_length=None, packed=False))
        limit = None if task.keeps_rest and job.packed else job.max_length
        train = _count(task, whole.train_dataset, job.tokenizer, limit)
        held = None if job.eval is None else _count(task, whole.eval_dataset, job.tokenizer, limit)
        _check_trained(train)
        rows = (whole.train_dataset, whole.eval_dataset) if task.reuses else (job.train, job.eval)
        ready = replace(unloaded, train=rows[0], eval=rows[1])
        other = len(rows[0]) and (job.packed or train.too_long or train.untrained)
        real = task.trainer(ready) if other else whole  # to prepare the same rows once more takes minutes
        _check_left(real.train_dataset, job.max_length, train)
        _, of_epoch, *_, steps = real.set_initial_training_values(real.args, real.get_train_dataloader())
        first = tuple(task.pieces(whole.train_dataset[0], job.tokenizer))
        kept = replace(job, train=rows[0], eval=rows[1])
        rows_left = len(real.train_dataset)
    return Rehearsal(train, held, rows_left, job.packed, job.max_length, of_epoch, steps, first, kept)


def _count(task: TrainingTask, rows: Any, tokenizer: Any, limit: int | None) -> Counts:
    counts, untrained = Counts(), []
    for number, pieces in enumerate(_pieces(task, rows, tokenizer)):
        lengths = [len(piece.tokens) for piece in pieces]
        over = [max(0, n - limit) for n in lengths] if limit is not None else [0]
        trained = sum(sum(piece.trained) for piece in pieces)
        if not trained and any(len(piece.trained) for piece in pieces):
            untrained.append(number)
        counts = Counts(
            counts.rows + 1,
            counts.tokens + sum(lengths),
            counts.trained + trained,
            max(counts.longest, *lengths),
            counts.too_long + any(over),
            counts.lost + sum(over),
        )
    return replace(counts, untrained=tuple(untrained))


def _pieces(task: TrainingTask, rows: Any, tokenizer: Any) -> Iterator[list[TokenPiece]]:
    for columns in rows.iter(AT_ONCE):
        for values in zip(*columns.values(), strict=True):
            yield task.pieces(dict(zip(columns, values, strict=True)), tokenizer)


def _check_trained(counts: Counts) -> None:
    if counts.rows and len(counts.untrained) == counts.rows:
        raise HybridOptError(
            f"none of the {counts.rows} examples has a token that the loss counts: their answers are empty, or the "
            "chat template marks none; look at the answers, or take data.loss_on: all"
        )


def _check_left(rows: Any, max_length: int | None, counts: Counts) -> None:
    if not len(rows):
        raise HybridOptError(
            f"data.max_length={max_length}: none of the {counts.rows} examples is short enough to learn from, the "
            f"longest has {counts.longest} tokens; write data.max_length: {counts.longest}"
        )
