"""What people are told about a run before it begins."""

from typing import Any

from ...config.run import Run
from .rehearsal import Rehearsal

__all__ = ["many", "told_of"]

FEW = 10  # steps, with fewer of which little is learnt
LISTED = 3
LOSSES = {
    "all": "all tokens",
    "completion": "the answer alone",
    "assistant": "what the assistant says",
}


def told_of(rehearsal: Rehearsal, examples: Any, run: Run, processes: int = 1) -> list[str]:
    """Return lines that say what training makes of its examples, and in how many steps.

    Args:
        rehearsal: of the run.
        examples: with the places where rows stand.
        run: with lengths filled in.
        processes: that share the examples.
    """
    steps = _steps(rehearsal, run, processes)
    return [_tokens(rehearsal, run), *_cut(rehearsal), *_untrained(rehearsal, examples), *steps]


def _tokens(rehearsal: Rehearsal, run: Run) -> str:
    train, held = rehearsal.train, rehearsal.eval
    text = f"{many(train.rows, 'example')}{f', {held.rows:,} held out' if held else ''}: {train.tokens:,} tokens"
    if train.trained:
        loss = LOSSES.get(run.data.loss_on)
        text += f", of which {_share(train.trained, train.tokens)} are trained{f' (loss on {loss})' if loss else ''}"
    return f"{text}; the longest sequence has {train.longest:,}"


def _cut(rehearsal: Rehearsal) -> list[str]:
    train, found = rehearsal.train, []
    if train.too_long and rehearsal.dropped < train.too_long:
        found.append(
            f"{_share(train.too_long, train.rows)} of the examples are longer than data.max_length="
            f"{rehearsal.max_length} and are cut: {_share(train.lost, train.tokens)} of the tokens are lost"
        )
    if rehearsal.dropped:
        found.append(
            f"{many(rehearsal.dropped, 'example')} left out: nothing to learn is left of them within data.max_length="
            f"{rehearsal.max_length}"
        )
    return found


def _untrained(rehearsal: Rehearsal, examples: Any) -> list[str]:
    bad = rehearsal.train.untrained
    if not bad:
        return []
    listed = ", ".join(examples.origin(number) for number in bad[:LISTED])
    more = f" and {len(bad) - LISTED:,} more" if len(bad) > LISTED else ""
    return [f"{many(len(bad), 'example')} without a token that the loss counts: {listed}{more}"]


def _steps(rehearsal: Rehearsal, run: Run, processes: int) -> list[str]:
    steps, train = rehearsal.steps, run.train
    each = f"batch {train.batch} x accumulate {train.accumulate}"
    each += "" if processes == 1 else f" x {processes} processes"
    if rehearsal.packed:
        text = (
            f"{many(rehearsal.train.rows, 'row')} packed into {many(rehearsal.rows, 'sequence')} of "
            f"{rehearsal.max_length:,} tokens: {many(steps)} ({each})"
        )
    else:
        epochs = f"{train.epochs:g} pass{'' if train.epochs == 1 else 'es'} over the examples"
        text = f"{many(steps)} in all ({each})" + ("" if train.max_steps else f", {epochs}")
    found = [text]
    if steps < FEW:
        found.append(
            f"{many(steps)} {'is' if steps == 1 else 'are'} too few to learn much in; for more: "
            f"{' or '.join(_for_more(rehearsal, run))}"
        )
    return found


def _for_more(rehearsal: Rehearsal, run: Run) -> list[str]:
    """Return what makes a run longer, of what it has not yet."""
    train = run.train
    if train.max_steps is not None:
        return ["a larger train.max_steps"]
    packed = ["data.packing: false"] if rehearsal.packed else []
    size = "accumulate" if train.accumulate > 1 else "batch" if train.batch > 1 else None
    return [*packed, *([f"a smaller train.{size}"] if size else []), "more train.epochs"]


def many(number: int, what: str = "step") -> str:
    """Return a number of steps, or of something else, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)"
