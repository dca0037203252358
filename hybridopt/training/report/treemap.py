"""Rectangles whose areas are given, as square as may be, within a rectangle."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Box", "squarified"]


@dataclass(frozen=True)
class Box:
    """A rectangle.

    Args:
        x: its left edge.
        y: its upper edge.
        width: not negative.
        height: not negative.
    """

    x: float
    y: float
    width: float
    height: float

    def within(self, edge: float, head: float = 0.0) -> "Box":
        """Return what is left within an edge all around and `head` more at the top, where there is room for them."""
        edge = min(edge, self.width / 4, self.height / 4)
        head = head if self.height > 4 * head else 0.0
        return Box(self.x + edge, self.y + edge + head, self.width - 2 * edge, self.height - 2 * edge - head)


def squarified(sizes: Sequence[float], box: Box) -> list[Box]:
    """Return a box for every size, in the order of the sizes, which fill `box` together.

    Sizes of 0 get boxes of no area, and so do all where there is nothing to share out.

    Source: Bruls, Huizing and van Wijk, Squarified Treemaps (2000), section 3.
    """
    total = sum(sizes)
    if total <= 0 or box.width <= 0 or box.height <= 0:
        return [Box(box.x, box.y, 0.0, 0.0)] * len(sizes)
    scale = box.width * box.height / total
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    areas = [sizes[i] * scale for i in order]
    placed: list[Box] = []
    while len(placed) < len(areas):
        row, box = _row(areas[len(placed) :], box)
        placed += row
    found = dict(zip(order, placed, strict=True))
    return [found[i] for i in range(len(sizes))]


def _row(areas: Sequence[float], box: Box) -> tuple[list[Box], Box]:
    """Return the boxes of the first areas along the shorter side, as long as they get squarer, and what is left."""
    side = min(box.width, box.height)
    count, total, worst = 0, 0.0, float("inf")
    for area in areas:
        now = _worst(areas[0], area, total + area, side)
        if count and now > worst:
            break
        count, total, worst = count + 1, total + area, now
    thick = total / side if side else 0.0
    row, along = [], 0.0
    for area in areas[:count]:
        length = area / thick if thick else 0.0
        upright = box.width >= box.height
        row.append(Box(box.x, box.y + along, thick, length) if upright else Box(box.x + along, box.y, length, thick))
        along += length
    if box.width >= box.height:
        return row, Box(box.x + thick, box.y, max(0.0, box.width - thick), box.height)
    return row, Box(box.x, box.y + thick, box.width, max(0.0, box.height - thick))


def _worst(largest: float, least: float, total: float, side: float) -> float:
    """Return the worst ratio of sides in a row of boxes; areas fall, so the first and the last decide."""
    if not least or not side:
        return float("inf") if least else 0.0
    return max(side**2 * largest / total**2, total**2 / (side**2 * least))
