"""The numbers of a record as short words, and how many of them fit into a line."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ...core.sizes import UNITS

__all__ = ["Field", "Goal", "bytes_line", "fields", "fitting", "number", "rate", "thousands"]

GAP = "  "


@dataclass(frozen=True)
class Field:
    """One word of the line.

    Args:
        text: that is shown.
        rank: 0 for what is left out last.
        alarm: whether it tells of something wrong.
    """

    text: str
    rank: int
    alarm: bool = False


@dataclass(frozen=True)
class Goal:
    """What a run is to do, and within what.

    Args:
        steps: of the whole run; None: not known.
        planned_bytes: the planned peak; None: not known.
        limit_bytes: of the device; None: not known.
    """

    steps: int | None = None
    planned_bytes: int | None = None
    limit_bytes: int | None = None


def number(value: float) -> str:
    """Write a loss or a norm in about four digits: 2.134, 0.0213, 4.1e-05, 123.4, nan."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.{max(0, min(4, 3 - math.floor(math.log10(abs(value)))))}f}"


def rate(value: float) -> str:
    """Write a learning rate: 1.0e-04."""
    return f"{value:.1e}"


def thousands(value: float) -> str:
    """Write a count in three digits: 950, 12.3k, 4.56M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def bytes_line(sizes: Sequence[int]) -> str:
    """Write sizes in the unit of the largest: 14.2/15.1/22.7 GiB."""
    unit = next((u for u in ("TiB", "GiB", "MiB") if max(sizes) >= UNITS[u.lower()]), "KiB")
    return f"{'/'.join(f'{size / UNITS[unit.lower()]:.1f}' for size in sizes)} {unit}"


def fields(record: Mapping[str, Any], goal: Goal, seconds_left: float | None = None, curve: str = "") -> list[Field]:
    """Return the words of a record in the order of the line; what is not known is left out.

    Args:
        record: of log.jsonl; eval_loss may be an earlier one's.
        goal: what the run is to do, and within what.
        seconds_left: until the run ends; None: not known.
        curve: of the losses so far.
    """
    found = [Field(f"step {record.get('step', 0)}{f'/{goal.steps}' if goal.steps else ''}", 0)]
    for name, label, write, rank in NUMBERS:
        if isinstance(value := record.get(name), int | float):
            found.append(Field(label.format(write(value)), rank, not math.isfinite(value)))
        if name == "loss" and curve:
            found.append(Field(curve, 7))
    sizes = [record[key] for key in ("memory_bytes", "peak_bytes") if key in record]
    if sizes:
        over = goal.limit_bytes is not None and max(sizes) > goal.limit_bytes
        found.append(Field(bytes_line([*sizes, *([goal.planned_bytes] if goal.planned_bytes else [])]), 3, over))
    if seconds_left is not None:
        found.append(Field(f"ETA {timedelta(seconds=round(seconds_left))}", 2))
    return found


NUMBERS = (  # key of a record, the word, how it is written, rank
    ("epoch", "epoch {}", "{:.2f}".format, 10),
    ("loss", "loss {}", number, 1),
    ("eval_loss", "eval {}", number, 5),
    ("lr", "lr {}", rate, 8),
    ("grad_norm", "norm {}", number, 9),
    ("tokens_per_second", "{} tok/s", thousands, 4),
)


def fitting(found: Sequence[Field], width: int | None) -> list[Field]:
    """Return the fields that fit into a line of `width` characters, those of the least importance left out."""
    kept: list[Field] = []
    for field in sorted(found, key=lambda each: each.rank):
        if width is None or len(GAP.join(each.text for each in (*kept, field))) <= width or not kept:
            kept.append(field)
    return [each for each in found if each in kept]
