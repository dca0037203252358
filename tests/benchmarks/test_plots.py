"""Plots against bytes: the frontier, and names that cover neither each other nor the points."""

from itertools import combinations

import pytest

from benchmarks.shared.label_places import Box, placed
from benchmarks.shared.plots import Point, frontier, plot

FRAME = Box(0, 0, 1000, 600)


def point(x, y):
    return Point(f"{x}", x, y, 0.0)


def test_the_frontier_is_what_nothing_with_as_few_bytes_is_below():
    points = [point(8, 3.0), point(4, 3.0), point(4, 3.5), point(0, 4.0), point(2, 4.5), point(16, 2.0), point(9, 3.1)]
    assert frontier(points) == [point(0, 4.0), point(4, 3.0), point(16, 2.0)]
    assert frontier([]) == []


def test_names_stand_apart_from_each_other_and_from_all_points_within_the_frame():
    points = [(500 + 12 * (i % 4), 300 + 9 * (i // 4)) for i in range(16)] + [(999, 599), (1, 1)]
    names = [f"method number {i}" for i in range(18)]
    boxes = placed(points, names, 10, FRAME)
    assert all(one.overlap(other) == 0 for one, other in combinations(boxes, 2))
    marks = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    assert all(box.overlap(mark) == 0 for box in boxes for mark in marks)
    assert all(0 <= box.left and box.right <= 1000 and 0 <= box.bottom and box.top <= 600 for box in boxes)


def test_where_nothing_is_free_the_name_that_covers_least_is_taken():
    crowd = [(50, 15)] * 30
    assert len(placed(crowd, ["long name"] * 30, 10, Box(0, 0, 130, 30))) == 30


def test_overlaps_are_areas():
    assert Box(0, 0, 2, 2).overlap(Box(1, 1, 3, 3)) == pytest.approx(1)
    assert Box(0, 0, 1, 1).overlap(Box(1, 0, 2, 1)) == 0


def test_a_plot_is_drawn_with_no_bytes_and_a_single_point(tmp_path):
    pytest.importorskip("matplotlib")
    plot([point(0, 4.0)], tmp_path / "one.png", "loss")
    plot([point(0, 4.0), Point("half", 9, 3.0, 0.1, open=True)], tmp_path / "two.png", "loss")
    assert (tmp_path / "one.png").stat().st_size > 1000 and (tmp_path / "two.png").stat().st_size > 1000
