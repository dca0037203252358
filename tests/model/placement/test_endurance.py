"""What training may write to a drive in a day."""

import re

import pytest

from hybridopt.core.errors import HybridOptError
from hybridopt.core.sizes import parse_size
from hybridopt.model.placement.endurance import DAILY, DAY, Endurance, daily
from hybridopt.model.placement.placement import Placement

GB, HOUR = 10**9, 3600


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


def test_what_is_foreseen_is_refused_before_training():
    writes = Endurance(Placement("disk"), Clock())
    writes.check_ahead(3 * GB, 1000.0)
    with pytest.raises(HybridOptError, match=r"127\.59 GiB a step.*allow_writes='\d+GB'"):
        writes.check_ahead(137 * GB, 20.0)
