"""Updates that are made when weights are near: each once in every stay, in order, and written when it is time."""

import gc
import os
import sys

import pytest
import torch
from torch import nn

from hybridopt.core.contracts import Piece, PlacedUnit, Traffic
from hybridopt.core.errors import HybridOptError, HybridOptWarning
from hybridopt.model.placement.backends.staged import Staged
from hybridopt.model.placement.placement import Placement
from hybridopt.model.placement.storage.working_file import WorkingFile, spaced
from hybridopt.model.placement.streaming import pending_updates
from hybridopt.model.placement.streaming.pending_updates import Outstanding
from hybridopt.model.placement.streaming.streamer import Streamer

CPU = torch.device("cpu")


class Carrier(Staged):
    """Fails when it is told to, in the middle of what it does."""

    fails = None

    def keep(self, unit, pieces):
        super().keep(unit, pieces[:1])
        if self.fails:
            raise self.fails
        super().keep(unit, pieces[1:])


def units(count=3):
    found = []
    for index in range(count):
        layer = nn.Module()
        layer.a, layer.b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(2))
        found.append(PlacedUnit(f"layers.{index}", layer, index))
        found[-1].pieces = [Piece(f"layers.{index}.{n}", n, p) for n, p in (("a", layer.a), ("b", layer.b))]
    return found


def streamer(every, count=3, slots=2):
    traffic, found = Traffic(), units(count)
    carrier = Carrier(CPU, traffic, placement := Placement("host", slots=slots, write_every=every))
    for unit in found:
        carrier.adopt(unit)
    return Streamer(found, carrier, placement, traffic)


def step(streamer, number, units=None):
    """Note x <- 2 x + number for every tensor: the order of steps shows."""
    for unit in streamer.units if units is None else units:
        for piece in unit.pieces:
            update = lambda p=piece.tensor: p.data.mul_(2).add_(number)  # noqa: E731
            streamer.outstanding.note(unit, piece, update, number)


def walk(streamer):
    """Let every unit be used once; return its values then."""
    found = []
    for unit in streamer.units:
        streamer.need(unit)
        found.append([piece.tensor.tolist() for piece in unit.pieces])
        streamer.done(unit)
    return found


@pytest.mark.parametrize("slots", [2, 3], ids="slots={}".format)
def test_without_a_number_of_steps_updates_wait_for_a_while_and_then_are_written_with_a_word(slots, monkeypatch):
    monkeypatch.setattr(pending_updates, "MOST", 8)
    carried = streamer(every=None, slots=slots)
    for number in range(7):
        step(carried, number)
        walk(carried)
    assert not carried.traffic.returned
    with pytest.warns(HybridOptWarning, match="write_every=None: updates of 8 steps wait") as told:
        for number in range(7, 22):
            step(carried, number)
            assert walk(carried) == [after(range(number + 1))] * 3
            assert all(len(w.updates) <= 2 * (8 + len(carried.units)) for w in carried.outstanding._waiting.values())
    assert len(told) == 1 and carried.traffic.returned


def test_layers_that_are_never_dropped_keep_no_more_updates_than_others(monkeypatch):
    monkeypatch.setattr(pending_updates, "MOST", 8)
    carried = streamer(every=2, slots=3)
    for number in range(22):
        step(carried, number)
        assert walk(carried) == [after(range(number + 1))] * 3
        assert all(len(w.updates) <= 2 * (8 + 2) for w in carried.outstanding._waiting.values())
    assert 0 < carried.traffic.returned <= 3 * 22 // 8 * carried.units[0].nbytes


def after(steps):
    value = 0
    for number in steps:
        value = 2 * value + number
    return [[value] * 4, [value] * 2]


@pytest.mark.parametrize("every", [None, 1, 2, 3])
def test_values_are_those_of_all_steps_whenever_a_unit_is_used(every):
    each = streamer(every)
    for number in range(1, 8):
        assert walk(each) == [after(range(1, number))] * 3
        step(each, number)
    size = sum(unit.nbytes for unit in each.units)
    assert each.traffic.returned <= (7 * size / every if every else 0)
    assert each.traffic.returned >= (3 * size / every if every else 0)
    each.catch_up()
    assert [[piece.tensor.tolist() for piece in unit.pieces] for unit in each.units] == [after(range(1, 8))] * 3
    assert not each.outstanding and walk(each) == [after(range(1, 8))] * 3


def test_units_are_written_in_turn():
    each, written = streamer(3, count=6), []
    for number in range(1, 10):
        before = each.traffic.returned
        step(each, number)
        walk(each)
        written.append((each.traffic.returned - before) // each.units[0].nbytes)
    assert max(written) <= 3 and 12 <= sum(written) <= 18


def test_what_nobody_updates_is_never_written():
    each = streamer(1)
    for number in range(1, 4):
        step(each, number, each.units[1:2])
        walk(each)
    each.catch_up()
    assert each.traffic.returned in (2 * each.units[1].nbytes, 3 * each.units[1].nbytes)
    assert walk(each)[::2] == [after([])] * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no")])
def test_what_was_updated_in_part_is_fetched_again(error):
    each = streamer(None)
    step(each, 1)
    raising = [error]

    def update(p=each.units[1].pieces[0].tensor):
        p.data.mul_(2).add_(2)
        if raising:
            raise raising.pop()

    each.outstanding.note(each.units[1], each.units[1].pieces[0], update, 2)
    with pytest.raises(type(error)):
        walk(each)
    assert walk(each) == [after([1]), [after([1, 2])[0], after([1])[1]], after([1])]


def test_a_unit_that_is_written_in_part_is_written_again():
    each = streamer(1)
    step(each, 1)
    each.backend.fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        walk(each)
    each.backend.fails = None
    step(each, 2)
    assert walk(each) == [after([1, 2])] * 3
    each.catch_up()
    assert [[piece.tensor.tolist() for piece in unit.pieces] for unit in each.units] == [after([1, 2])] * 3


def test_neither_old_nor_new_values_are_told():
    each = streamer(1)
    step(each, 1)
    each.backend.fails = ValueError("the disk is full")
    with pytest.raises(ValueError, match="full"):
        walk(each)
    step(each, 2)
    unit = each.near[0]

    def failing():
        raise ValueError("no")

    each.outstanding.note(unit, unit.pieces[0], failing, 3)
    with pytest.raises(HybridOptError, match=f"'{unit.name}' were being written when .* last checkpoint"):
        each.need(unit)


def test_no_more_is_written_than_a_drive_endures():
    spent = []

    def spend(size):
        spent.append(size)
        if len(spent) > 1:
            raise HybridOptError("too much")

    each = streamer(1)
    each.outstanding = Outstanding(each.backend, 1, spend)
    step(each, 1)
    with pytest.raises(HybridOptError, match="too much"):
        walk(each), walk(each)
    assert spent == [each.units[0].nbytes] * 2
    each.catch_up()  # whoever asks for the values gets them
    assert [[piece.tensor.tolist() for piece in unit.pieces] for unit in each.units] == [after([1])] * 3


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_file_that_is_gone_was_closed(tmp_path):
    file = WorkingFile(tmp_path, 4096)
    number, told = file._own.fileno(), []
    hook, sys.unraisablehook = sys.unraisablehook, told.append
    try:
        del file
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert not told
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_working_file_holds_what_is_written_and_leaves_nothing(tmp_path):
    values = [torch.randn(3, 5), torch.randn(2000).to(torch.bfloat16)]
    file = WorkingFile(tmp_path / "new" / "folder", sum(spaced(x.nbytes) for x in values))
    extents = [file.reserve(x.nbytes) for x in values]
    for extent, x in zip(extents, values, strict=True):
        file.write(extent, x)
    found = [file.tensor(e, tuple(x.shape), x.dtype) for e, x in zip(extents, values, strict=True)]
    assert all(torch.equal(x, y) for x, y in zip(found, values, strict=True))
    file.write(extents[0], -values[0])
    assert torch.equal(found[0], -values[0]) and torch.equal(found[1], values[1])
    assert not list((tmp_path / "new" / "folder").iterdir())
    with pytest.raises(HybridOptError, match=r"trained weights take up to \d+: free space, or give a folder"):
        WorkingFile(tmp_path, 1 << 60)
    (tmp_path / "file").touch()
    with pytest.raises(HybridOptError, match="give another folder as Placement"):
        WorkingFile(tmp_path / "file", 10)
