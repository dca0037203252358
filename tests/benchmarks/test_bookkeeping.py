"""Bookkeeping is what a step takes beside its backend; calls are counted one by one."""

import json

import pytest
import torch

from benchmarks.bookkeeping import backend, llama, steps
from benchmarks.bookkeeping.__main__ import main
from benchmarks.bookkeeping.backend import measured
from benchmarks.bookkeeping.calls import Calls, calls_of
from hybridopt import HybridOptimizer
from hybridopt.core import sizes
from hybridopt.optimizer import updates


class Clock:
    """A clock that only moves when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now

    def tick(self, by):
        self.now += by


@pytest.fixture
def clock(monkeypatch):
    """A clock that a task moves by 1 when it is made, and the backend by 10."""
    clock = Clock()
    monkeypatch.setattr(updates, "run", lambda tasks, compiles: [clock.tick(10) for _ in tasks])
    return clock


@pytest.mark.parametrize("kind", [list, iter])
def test_making_tasks_is_bookkeeping_and_the_backend_is_not(clock, kind):
    def step():
        clock.tick(5)
        tasks = (clock.tick(1) for _ in range(3))
        updates.run(kind(tasks) if kind is list else tasks, False)

    assert measured(step, clock) == backend.Spent(total=38, outside=8)
    assert updates.run.__name__ == "<lambda>"  # as it was before


def test_a_step_that_enters_no_backend_is_refused(clock):
    with pytest.raises(RuntimeError, match=r"entered no backend by .*\.updates\.run or .*_CrewStep\.run"):
        measured(lambda: clock.tick(1), clock)


def test_repeated_updates_are_entered_too():
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(5)]
    optimizer = HybridOptimizer(params, policy="adamw")
    for p in params:
        p.grad = torch.ones(3)
    with backend.watched(Clock()) as inside:
        for _ in range(4):
            optimizer.step()
    assert inside.entered == 4


def test_calls_are_those_of_hybridopt_alone():
    with Calls() as calls:
        torch.zeros(3).add(1)
        json.dumps({})
    assert calls.count == 0
    assert 0 < calls_of(lambda: sizes.gib(1))
    assert calls_of(lambda: [sizes.gib(1) for _ in range(3)]) == 3 * calls_of(lambda: sizes.gib(1))


@pytest.mark.parametrize("name", steps.METHODS)
def test_calls_are_the_same_every_time_and_grow_slower_than_tensors(name):
    few, more = (steps.calls(name, count) for count in (4, 8))
    assert steps.calls(name, 4) == few
    assert 0 < few.outside < few.total <= more.total < 2 * few.total


def test_nothing_of_a_step_is_left_out():
    step = steps.step_of(steps.METHODS["adamw"], 3)
    with Calls() as calls:
        spent = measured(step, lambda: calls.count)
    assert spent.total == calls.count == calls_of(step)


def test_the_first_probe_is_watched():
    llama.counts()  # some things are worked out once a process
    counts, again = llama.counts(), llama.counts()
    assert counts.keys() == llama.LABELS.keys()
    assert all(counts[name] == again[name] > 0 for name in counts if name != "first probe")
    assert counts["first probe"] > counts["later probe"]


def test_the_command_writes_records_and_tables(tmp_path, capsys):
    main(["--runs", "2", "--rounds", "2", "--tensors", "3", "--out", str(tmp_path)])
    rows = {row["row"]: row for row in map(json.loads, (tmp_path / "bookkeeping.jsonl").read_text().splitlines())}
    assert rows.keys() == {*steps.METHODS, "llama"}
    for name in steps.METHODS:
        assert len(rows[name]["runs"]) == 2
        assert all(0 < run["outside_seconds"] < run["seconds"] for run in rows[name]["runs"])
    printed, written = capsys.readouterr().out, (tmp_path / "bookkeeping.md").read_text()
    for method in steps.METHODS.values():
        assert f"| {method.label} |" in printed and f"| {method.label} |" in written
