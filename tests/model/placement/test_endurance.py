"""What training may write to a drive in a day."""

import re

import pytest

from hybridopt.core.errors import HybridOptError
from hybridopt.core.sizes import parse_size
from hybridopt.model.placement.placement import Placement
from hybridopt.model.placement.storage.drive_endurance import DAILY, DAY, Endurance, daily
from support.fake_backend import fake_streamer

GB, HOUR = 10**9, 3600


def test_a_unit_whose_writing_is_refused_keeps_its_updates():
    streamer = fake_streamer(3, 2)
    writes = Endurance(Placement("disk", allow_writes="1GB"), Clock())
    streamer.backend.write = lambda unit, pieces: None
    streamer.backend.spend = lambda pieces: writes.spend(GB)
    kept, made = [], []
    streamer.backend.keep = lambda unit, pieces: kept.append(unit.index)
    for unit in streamer.units:
        streamer.outstanding.note(unit, unit.pieces[0], lambda unit=unit: made.append(unit.index), 0)
    with pytest.raises(HybridOptError, match="allow_writes='1GB' allows no more"):
        streamer.catch_up()
    assert kept == [0] and [unit.index for unit in streamer.outstanding.units()] == [1, 2]
    streamer.rest()
    writes._allowed = 3 * GB
    streamer.catch_up()
    assert kept == [0, 1, 2] and made[-2:] == [1, 2] and not streamer.outstanding.units()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_day_is_a_day_of_a_usual_drive():
    assert daily(Placement("disk")) == DAILY == 600_000 * GB // 1825
    assert daily(Placement("disk", allow_writes="2TB")) == 2000 * GB


def test_what_is_too_much_is_refused_before_it_is_written():
    writes = Endurance(Placement("disk", allow_writes="10GB"), Clock())
    for _ in range(10):
        writes.spend(GB)
    with pytest.raises(
        HybridOptError, match=r"has written 9\.31 GiB .* within a day.*allow_writes='10GB' allows no mo"
    ):
        writes.spend(1)
    assert writes.written == 10 * GB


def test_the_cure_is_one():
    writes = Endurance(Placement("disk"), Clock())
    writes.spend(DAILY)
    with pytest.raises(HybridOptError, match="write_every=.*allow_writes=") as caught:
        writes.spend(GB)
    size = re.search(r"allow_writes='(\w+)'", str(caught.value))[1]
    assert parse_size(size) > DAILY + GB


def test_what_was_written_a_day_ago_is_forgotten():
    clock = Clock()
    writes = Endurance(Placement("disk", allow_writes="24GB"), clock)
    for hour in range(100):
        clock.now = hour * HOUR
        writes.spend(GB)  # a rate that is allowed, for ever
    with pytest.raises(HybridOptError):
        writes.spend(2 * GB)
    clock.now += DAY + HOUR
    assert writes.written == 0
    writes.spend(24 * GB)


def test_what_is_kept_does_not_grow():
    clock = Clock()
    writes = Endurance(Placement("disk", allow_writes="900TB"), clock)
    for second in range(0, 3 * DAY, 60):
        clock.now = second
        writes.spend(1)
    assert len(writes._spans) <= 97 and writes.written == pytest.approx(DAY / 60, rel=0.02)
