"""The curves of a run: loss, learning rate, gradient norm, and the task's own numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from .axes import Axis, step_axis, value_axis
from .markup import Html
from .plot import Line, chart
from .series import SMOOTH, Series, series, smoothed

__all__ = ["curves", "others"]

EVAL = "eval_"
# Keys of records that are drawn elsewhere, or tell of a moment and not of the training.
KNOWN = ("step", "epoch", "seconds", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "nonfinite")
ENDS = ("_bytes", "runtime", "_per_second", "_flos", "train_loss", "_time")
MOST = 12  # charts of the task's own numbers


def curves(records: Sequence[Mapping[str, Any]], total: float | None = None) -> list[Html]:
    """Return the charts of loss, learning rate and gradient norm, those of which something is known.

    Args:
        records: of log.jsonl.
        total: steps of the whole run; None: as many as there are records of.
    """
    x = _steps(records, total)
    found = [
        _course(records, "loss", "Loss", x),
        _single(records, "lr", "Learning rate", x, "rate"),
        _single(records, "grad_norm", "Gradient norm", x, "norm", "Of all gradients together, before clipping."),
    ]
    return [each for each in found if each is not None]


def others(records: Sequence[Mapping[str, Any]], total: float | None = None) -> list[Html]:
    """Return charts of the numbers that the task logs itself, training and evaluation together.

    Args:
        records: of log.jsonl.
        total: steps of the whole run; None: as many as there are records of.
    """
    names = {key.removeprefix(EVAL): None for record in records for key in record if _own(key)}
    x = _steps(records, total)
    speed = [_single(records, "tokens_per_second", "Tokens a second", x, "speed", "Without padding and evaluations.")]
    found = [*speed, *(_course(records, name, name, x) for name in list(names)[:MOST])]
    return [each for each in found if each is not None]


def _own(key: str) -> bool:
    bare = key.removeprefix(EVAL)
    return bare not in KNOWN and not bare.endswith(ENDS) and not key.startswith("train_")


def _course(records: Sequence[Mapping[str, Any]], key: str, title: str, x: Axis) -> Html | None:
    """Return a chart of a number in training, raw and smoothed, and in evaluations."""
    raw, held_out = series(records, key, "training"), series(records, EVAL + key, "evaluation")
    if not raw.finite and not held_out.finite and not raw.broken:
        return None
    y = value_axis(raw.finite + held_out.finite, log=False)
    lines = [Line(raw, "raw" if len(raw) > 2 * SMOOTH else "train")] if len(raw) else []
    if len(raw) > 2 * SMOOTH:
        lines = [Line(raw, "raw", legend=False), Line(smoothed(raw, "training, smoothed"), "train")]
    lines += [Line(held_out, "eval", dots=True)] if len(held_out) else []
    return chart(title, lines, x, y)


def _single(
    records: Sequence[Mapping[str, Any]], key: str, title: str, x: Axis, look: str, about: str = ""
) -> Html | None:
    found: Series = series(records, key, title.lower())
    return chart(title, [Line(found, look)], x, value_axis(found.finite), about) if len(found) else None


def _steps(records: Sequence[Mapping[str, Any]], total: float | None) -> Axis:
    return step_axis([r["step"] for r in records if isinstance(r.get("step"), int | float)], total)
