"""What stands beside a GPU: given, measured and kept by `hybridopt doctor`, or assumed."""

import json
import platform
from datetime import date

import pytest

from hybridopt import HybridOptError
from hybridopt.core.card_speeds import TFLOPS, sustained
from hybridopt.core.cards import CARDS
from hybridopt.core.host import ASSUMED, Speed, host, note_speeds, noted, parse_speed, speeds_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hybridopt" / "speeds.json"


@pytest.mark.parametrize(("text", "speed"), [("25GB/s", 25e9), ("500 MB/s", 5e8), ("1GiB / sec", 2**30)])
def test_speeds_are_sizes_a_second(text, speed):
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["25GB", "25/s", "fast", "25GB/min", "GB/s", 25, None])
def test_what_is_no_speed_is_refused(text):
    with pytest.raises(HybridOptError, match="bus="):
        parse_speed(text, "bus")


def test_what_nobody_has_measured_is_assumed(cache):
    found = host("64GiB", disk="6GB/s")
    assert (found.memory, found.bus.bytes, found.bus.known) == (64 * 2**30, ASSUMED["bus"], "assumed")
    assert found.disk == Speed(6e9, "given") and str(found.disk) == "6 GB/s (given)"
    assert host(1000).missing(1500) == 500 and host().missing(1500) == 0


def test_what_was_measured_is_kept_with_its_day_and_said(cache):
    assert note_speeds({"disk": 7e8}, date(2026, 11, 28)) == speeds_file() == cache
    note_speeds({"bus": 2.5e10}, date(2026, 11, 29))
    assert host().disk == Speed(7e8, "measured 2026-11-28") and host().bus == Speed(2.5e10, "measured 2026-11-29")
    assert host(bus=1e9).bus == Speed(1e9, "given")


def test_another_machines_speeds_are_not_this_ones(cache, monkeypatch):
    note_speeds({"disk": 7e8})
    monkeypatch.setattr(platform, "node", lambda: "another")
    assert noted() == {}


@pytest.mark.parametrize("speed", [0, -1, "7e8", True, None, float("nan"), float("inf")], ids=str)
def test_a_file_that_holds_no_speeds_is_passed_over(cache, speed):
    entry = {"bytes_per_second": speed, "date": "2026-11-28"}
    good = {"bytes_per_second": 5, "date": "2026-11-28"}
    cache.parent.mkdir()
    for told in ({"disk": entry}, {"disk": good | {"date": "today"}}, {"disk": {}}, {"other": good}, [good], None):
        cache.write_text(json.dumps({"machine": platform.node(), "speeds": told}))
        assert noted() == {}
    cache.write_text("{")
    assert noted() == {}


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert note_speeds({"disk": 7e8}) is None and noted() == {}


def test_what_makers_say_belongs_to_cards():
    assert TFLOPS.keys() <= {card.name for card in CARDS}
    assert sustained("4090").a_second == pytest.approx(74e12, rel=0.01) and "assumed" in str(sustained("4090"))
    assert sustained("P100") is None and sustained("no such card") is None


@pytest.mark.parametrize(
    "bad", [{"memory": 0}, {"memory": -1}, {"memory": float("nan")}, {"bus": 0}, {"bus": float("nan")}, {"disk": -1.0}]
)
def test_facts_that_no_host_has_are_refused(bad):
    with pytest.raises(HybridOptError, match=f"{'host' if 'memory' in bad else next(iter(bad))}=.*; (give|write) "):
        host(**bad)
