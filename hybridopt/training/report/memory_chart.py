"""Memory over the steps, stacked by what it is for, against the plan and the card."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.sizes import human
from .axes import Axis, byte_axis, step_axis
from .markup import Html, element, join
from .plot import ChartBody, frame, key_entry, points
from .series import Series, thinned

__all__ = ["KINDS", "memory_chart"]

KINDS = ("weights", "quantization", "near", "state", "gradients")
REST = "activations and temporaries"
FAR = 2.5  # times the largest that a limit may lie above it and still be drawn

Record = Mapping[str, Any]
Rule = tuple[str, str, int]  # its name, its look, its bytes


def memory_chart(records: Sequence[Record], planned: int | None, limit: int | None, device: str) -> Html | None:
    """Return the chart, or None where no record tells of bytes.

    Args:
        records: of log.jsonl.
        planned: bytes of the planned peak; None: not known.
        limit: of the device; None: not known.
        device: "cuda", where the peak is what torch has allocated; elsewhere it is that of the whole process, which is
            no measure of what is planned, and is left out.
    """
    rows = [r for r in records if "weights_bytes" in r and isinstance(r.get("step"), int | float)]
    if not rows:
        return None
    kinds = {kind: [_size(r, f"{kind}_bytes") for r in rows] for kind in KINDS}
    kinds = {kind: sizes for kind, sizes in kinds.items() if any(sizes)}
    if device == "cuda":
        sums = [sum(sizes) for sizes in zip(*kinds.values(), strict=True)] or [0] * len(rows)
        kinds[REST] = [max(0, _size(r, "peak_bytes") - known) for r, known in zip(rows, sums, strict=True)]
    if not kinds:
        return None
    steps, tops = [r["step"] for r in rows], _stacked(list(kinds.values()))
    near, far = _limits(
        max(tops[-1]), [("planned peak", "planned", planned), ("memory of the device", "limit", limit)]
    )
    x, y = step_axis(steps), byte_axis(max(max(tops[-1]), *(size for *_, size in near), 1))
    bases = [[0] * len(steps), *tops]
    looks = [f"k-{kind.partition(' ')[0]}" for kind in kinds]
    areas = [_area(look, steps, low, top, x, y) for look, low, top in zip(looks, bases, tops, strict=False)]
    rules = [_rule(look, size, y) for _, look, size in near]
    told = [(look, _series(kind, steps, sizes)) for look, (kind, sizes) in zip(looks, kinds.items(), strict=True)][
        ::-1
    ]
    entries = [key_entry(each.name, look) for look, each in told]
    entries += [key_entry(f"{name}, {human(size)}", look) for name, look, size in near]
    about = " ".join(
        [*_about(rows, device), *(f"The {name}, {human(size)}, lies far above." for name, _, size in far)]
    )
    return frame("Memory", ChartBody(x, y, join(*areas, *rules), told=told), entries, about, "bytes")


def _limits(largest: int, lines: Sequence[tuple[str, str, int | None]]) -> tuple[list[Rule], list[Rule]]:
    """Return the lines that are near enough to be drawn, and the others: next to them nothing else would be seen."""
    near: list[Rule] = []
    far: list[Rule] = []
    for name, look, size in lines:
        if size:
            (near if size <= FAR * largest else far).append((name, look, size))
            largest = max(largest, size) if near and near[-1][2] == size else largest
    return near, far


def _about(rows: Sequence[Record], device: str) -> list[str]:
    if device == "cuda":
        return ["Up to the largest that torch had allocated so far."]
    peak = max((_size(r, "peak_bytes") for r in rows), default=0)
    process = [f"The whole process took {human(peak)}, with Python and all libraries."] if peak else []
    return ["Tensors that are kept, gradients at their largest.", *process]


def _stacked(sizes: Sequence[Sequence[int]]) -> list[list[int]]:
    tops: list[list[int]] = []
    for each in sizes:
        below = tops[-1] if tops else [0] * len(each)
        tops.append([a + b for a, b in zip(below, each, strict=True)])
    return tops


def _area(look: str, steps: Sequence[float], low: Sequence[int], top: Sequence[int], x: Axis, y: Axis) -> Html:
    ends = [thinned(_series("", steps, edge)) for edge in (top, low)]
    upper, lower = ([(at, float(value or 0)) for at, value in zip(s.xs, s.ys, strict=True)] for s in ends)
    if len(steps) == 1:  # a step alone is as wide as the picture
        upper, lower = ([(x.low, edge[0][1]), (x.high, edge[0][1])] for edge in (upper, lower))
    return element("polygon", class_=look, points=points([*upper, *reversed(lower)], x, y))


def _rule(look: str, size: int, y: Axis) -> Html:
    at = f"{1000 * (1 - y.place(size)):.1f}"
    return element("line", class_=f"rule {look}", x1="0", x2="1000", y1=at, y2=at)


def _series(name: str, steps: Sequence[float], sizes: Sequence[int]) -> Series:
    return thinned(Series(name, tuple(steps), tuple(sizes)))


def _size(record: Record, key: str) -> int:
    return value if isinstance(value := record.get(key), int) else 0
