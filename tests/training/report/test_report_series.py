"""Curves keep their extremes when they are thinned, boxes fill their rectangle, axes have round numbers."""

import math
import random

import pytest

from hybridopt.training.report.axes import byte_axis, step_axis, value_axis
from hybridopt.training.report.model_map import MOST, layer_of_tensor, model_map
from hybridopt.training.report.series import Series, series, smoothed, thinned
from hybridopt.training.report.treemap import Box, squarified

GIB = 2**30


def long(count, spikes=()):
    ys = [0.5 + 0.1 * math.sin(i) for i in range(count)]
    for at, value in spikes:
        ys[at] = value
    return Series("x", tuple(range(count)), tuple(ys))


def test_a_thinned_curve_keeps_every_spike_both_ends_and_gaps():
    spikes = ((1234, 9.0), (4321, -9.0), (5000, None), (7777, 8.0))
    found = thinned(long(10_000, spikes))
    points = dict(zip(found.xs, found.ys, strict=True))
    assert len(found) <= 2000 and list(found.xs) == sorted(set(found.xs))
    assert all(points[at] == value for at, value in spikes)
    assert {0, 9999} <= points.keys() and 5000 in found.broken


@pytest.mark.parametrize("count", [2001, 2002, 3000, 100_000])
def test_a_thinned_curve_is_never_longer(count):
    assert 1000 < len(thinned(long(count))) <= 2000
    nothing = Series("x", tuple(range(count)), (None,) * count)
    assert len(thinned(nothing)) <= 2000


def test_a_short_curve_stays_as_it_is():
    short = long(2000)
    assert thinned(short) is short


def test_a_smoothed_curve_is_the_mean_around_each_point():
    raw = Series("x", tuple(range(300)), tuple(float(i % 2) for i in range(300)))
    found = smoothed(raw).ys
    assert all(abs(y - 0.5) < 0.1 for y in found)
    line = Series("x", tuple(range(300)), tuple(map(float, range(300))))
    assert smoothed(line).ys[150] == pytest.approx(150.0)  # it does not lag
    gap = Series("x", tuple(range(300)), tuple(None if i == 150 else 1.0 for i in range(300)))
    assert smoothed(gap).ys[150] is None and smoothed(gap).ys[149] == pytest.approx(1.0)


def test_a_series_has_a_gap_for_what_is_no_number():
    records = [{"step": 1, "a": 1}, {"step": 2, "a": None}, {"step": 3}, {"a": 4}, {"step": 5, "a": "x"}]
    assert series(records, "a") == Series("a", (1, 2, 5), (1, None, None))


@pytest.mark.parametrize("seed", range(5))
def test_boxes_have_their_areas_fill_the_whole_and_do_not_overlap(seed):
    draw = random.Random(seed)
    sizes = [draw.choice([0, 1, 5, 100, 10_000]) * draw.random() for _ in range(200)]
    boxes = squarified(sizes, Box(10, 20, 1000, 500))
    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(size / sum(sizes) * 500_000, rel=1e-6, abs=1e-6)
        assert 10 - 1e-6 <= box.x and box.x + box.width <= 1010 + 1e-6
        assert 20 - 1e-6 <= box.y and box.y + box.height <= 520 + 1e-6
    for _ in range(2000):
        x, y = 10 + 1000 * draw.random(), 20 + 500 * draw.random()
        assert sum(b.x <= x < b.x + b.width and b.y <= y < b.y + b.height for b in boxes) == 1


def test_boxes_are_nearly_square():
    boxes = squarified([6, 6, 4, 3, 2, 2, 1], Box(0, 0, 6, 4))  # the paper's example
    assert max(max(b.width / b.height, b.height / b.width) for b in boxes) < 3
    assert (boxes[0].width, boxes[0].height, boxes[1].y) == (3, 2, 2)


def test_nothing_to_share_out_takes_no_room():
    assert all(b.width * b.height == 0 for b in squarified([0, 0], Box(0, 0, 5, 5)))
    assert squarified([], Box(0, 0, 5, 5)) == []
    assert len(squarified([1, 2], Box(0, 0, 0, 5))) == 2


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.11.self_attn.q_proj.weight", "layers.11"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight", "layers.0"),
        ("model.embed_tokens.weight", "embed_tokens"),
        ("base_model.model.lm_head.weight", "lm_head"),
        ("bert.encoder.layer.3.output.dense.bias", "bert.encoder.layer.3"),
        ("weight", "weight"),
    ],
)
def test_tensors_are_put_into_their_layers(name, layer):
    assert layer_of_tensor(name) == layer


def test_a_model_of_very_many_tensors_has_cells_of_several():
    many = [
        {"name": f"layers.{i // 100}.experts.{i % 100}.weight", "role": "linear", "tag": "frozen", "bytes": 100}
        for i in range(MOST + 100)
    ]
    text = model_map(many)
    assert text.count("<rect") == 41 and "layers.0, 100 tensors" in text and f"{MOST + 100:,} tensors" in text
    assert model_map(many[:MOST]).count("<rect") == MOST


@pytest.mark.parametrize(("low", "high"), [(0.5, 3.2), (1.0, 1.0), (0.0, 0.0), (-5.0, 1e-3), (1e-9, 2e-9), (-1, 1e7)])
def test_axes_hold_their_values_and_have_a_few_round_numbers(low, high):
    axis = value_axis([low, high], log=False)
    assert 0 <= axis.place(low) <= axis.place(high) <= 1 and 2 <= len(axis.ticks) <= 8
    assert len({axis.write(tick) for tick in axis.ticks}) == len(axis.ticks)


def test_very_different_sizes_are_on_a_logarithmic_axis():
    axis = value_axis([0.01, 50.0])
    assert axis.log and axis.ticks == pytest.approx((0.01, 0.1, 1, 10, 100))
    assert axis.place(1.0) == pytest.approx(0.5) and not value_axis([0.0, 50.0]).log


def test_axes_of_steps_and_bytes():
    assert step_axis([1, 300]).ticks == (100, 200, 300)
    assert step_axis([1, 3]).ticks == (1, 2, 3) and step_axis([]).high == 1 and step_axis([7]).place(7) == 0
    assert step_axis([1, 30], 1000).high == 1000
    assert [byte_axis(9 * GIB).write(x) for x in byte_axis(9 * GIB).ticks] == ["0", "2 GiB", "4 GiB", "6 GiB", "8 GiB"]
    assert byte_axis(0).high > 0
