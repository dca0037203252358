"""Where the names of points in a plot go, so that they cover neither each other nor the points."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Box", "placed"]

LETTER, LINE = 0.62, 1.25  # width and height of a letter, in font sizes
REACH = 12  # rings of places that are tried around a point
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


@dataclass(frozen=True)
class Box:
    """A rectangle: left, bottom, right, top."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """Return the area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, wide) * max(0.0, high)


def placed(points: Sequence[tuple[float, float]], names: Sequence[str], size: float, frame: Box) -> list[Box]:
    """Return a box for each name, as near to its point as is free; where nothing is, the one that covers least.

    Args:
        points: places, in the unit of `size`.
        names: one a point.
        size: of the font.
        frame: which boxes must not leave.
    """
    marks = [Box(x - size / 2, y - size / 2, x + size / 2, y + size / 2) for x, y in points]
    boxes: dict[int, Box] = {}
    for i in sorted(range(len(points)), key=lambda i: points[i][1]):
        around = [box for box in _around(points[i], names[i], size) if _inside(box, frame)]
        taken = [*marks, *boxes.values()]
        costs = [sum(box.overlap(other) for other in taken) for box in around]
        free = next((box for box, cost in zip(around, costs, strict=True) if cost == 0), None)
        boxes[i] = free or around[costs.index(min(costs))]
    return [boxes[i] for i in range(len(points))]


def _around(point: tuple[float, float], name: str, size: float) -> list[Box]:
    """Return places for a name around a point, the nearest first."""
    (x, y), wide, high = point, LETTER * size * len(name), LINE * size
    found = []
    for ring in range(REACH):
        for right, up in SIDES:
            gap = size * (0.8 + 0.6 * ring)
            left = x + right * gap - (1 - right) / 2 * wide
            bottom = y + up * gap - (1 - up) / 2 * high
            found.append(Box(left, bottom, left + wide, bottom + high))
    return found


def _inside(box: Box, frame: Box) -> bool:
    return frame.left <= box.left and box.right <= frame.right and frame.bottom <= box.bottom and box.top <= frame.top
