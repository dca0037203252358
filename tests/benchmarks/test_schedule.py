"""Runs are carried out as long as something is wanted; what raises is dropped, and time is kept."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from benchmarks.shared.schedule import Schedule


@dataclass(frozen=True)
class Run:
    name: str
    number: int


class Bench:
    """Wants three runs of a method, one after the other; method "late" waits for all of "first"."""

    def __init__(self, broken=()):
        self.done, self.broken, self.said = [], broken, []

    def wanted(self, name):
        mine = [run for run in self.done if run.name == name]
        waits = name == "late" and sum(run.name == "first" for run in self.done) < 3
        return [] if waits or len(mine) == 3 else [Run(name, len(mine))]

    def carry_out(self, run):
        if run.name in self.broken:
            raise ArithmeticError("no way")
        self.done.append(run)
        return {"run_seconds": 30.0}

    def schedule(self, *names):
        return Schedule(names, self.wanted, self.carry_out, lambda run, record: self.said.append(run) or "")


@pytest.mark.parametrize("jobs", [1, 3])
def test_all_runs_that_are_wanted_are_made_once(jobs):
    bench = Bench()
    with ThreadPoolExecutor(jobs) as pool:
        assert bench.schedule("late", "first", "other").measure(pool, jobs) == {}
    assert sorted(bench.done, key=str) == [Run(name, n) for name in ("first", "late", "other") for n in range(3)]
    assert set(bench.said) == set(bench.done)
    assert bench.done.index(Run("late", 0)) > bench.done.index(Run("first", 2))


def test_who_raises_is_dropped_and_the_others_go_on():
    bench = Bench(broken=["bad"])
    with ThreadPoolExecutor(1) as pool:
        failed = bench.schedule("bad", "first").measure(pool, 1)
    assert failed == {"bad": "ArithmeticError: no way"} and {run.name for run in bench.done} == {"first"}


def test_no_run_is_begun_that_would_end_too_late(capsys):
    bench = Bench()
    with ThreadPoolExecutor(1) as pool:
        bench.schedule("first").measure(pool, 1, minutes=0.4)  # the first run says that it took half a minute
    assert bench.done == [Run("first", 0)]
    assert "no time for the 1 runs that wait: run again" in capsys.readouterr().out


def test_what_follows_of_the_first_comes_before_what_waits_of_others():
    bench = Bench()
    with ThreadPoolExecutor(1) as pool:
        bench.schedule("first", "other").measure(pool, 1)
    assert [run.name for run in bench.done] == ["first"] * 3 + ["other"] * 3
