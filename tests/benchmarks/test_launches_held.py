"""What a step asks of a device stays within its bounds: in the table as published, and as the code is now."""

from dataclasses import replace

import pytest

from benchmarks.launches.bits import COMPARED
from benchmarks.launches.machine_table import MADE, MOST, faults, kernel_records
from benchmarks.launches.measure import counted
from benchmarks.launches.rows import BOUND, ROWS, SHAPES
from benchmarks.launches.table import broken, records_at
from benchmarks.shared.llama import SETS
from hybridopt.execution.backends.triton import Triton
from support.paths import ROOT

ALIKE = {"adamw", "signsgd", "lion", "frugal", "frugal, int8", "adamw, int8"}  # equal tensors of layers go together
NO_KERNEL = (
    *(f"{name}, new window" for name in ("frugal", "frugal, random", "galore", "qgalore")),
    *("muon, fused, full", "qgalore, fused, full", "swan, fused, LoRA"),
)


@pytest.fixture(scope="module")
def published():
    return {record["row"]: record for record in records_at(ROOT / "benchmarks" / "results").all()}


def at_8b(name, monkeypatch):
    """The counts of all layers; where each asks for the same, from those of one and two."""
    if name in ALIKE:
        return counted(BOUND[name], kind="meta")[0]
    one, two = (with_layers(BOUND[name], count, monkeypatch) for count in (1, 2))
    return {kind: one.get(kind, 0) + (SETS["8b"].layers - 1) * (n - one.get(kind, 0)) for kind, n in two.items()}


def with_layers(row, count, monkeypatch):
    monkeypatch.setitem(SHAPES, "few", replace(SETS["8b"], layers=count).shapes)
    return counted(replace(row, shapes="few"), kind="meta")[0]


@pytest.mark.parametrize("name", BOUND)
def test_a_step_asks_for_no_more_than_its_bounds_allow_and_for_what_is_published(name, published, monkeypatch):
    counts, told = at_8b(name, monkeypatch), published[name]["counts"]
    assert broken({"row": name, "counts": counts}) == []
    kinds = ("compiled", "launches", "waits", "copies", "midway")
    assert [counts.get(kind, 0) for kind in kinds] == pytest.approx([told.get(kind, 0) for kind in kinds], rel=0.1)


@pytest.mark.parametrize("name", NO_KERNEL)
def test_updates_that_are_no_kernel_wait_for_nothing_in_the_backward_pass(name, published):
    counts = counted(ROWS[name], kind="meta")[0]
    assert broken({"row": name, "counts": counts}) == []
    assert counts["midway"] == published[name]["counts"].get("midway", 0) == ROWS[name].most["midway"]


def test_a_kernel_that_is_lost_breaks_a_bound(monkeypatch):
    monkeypatch.setattr(Triton, "fits", lambda self, task: False)
    counts = at_8b("frugal", monkeypatch)
    assert any("compiled calls" in line for line in broken({"row": "frugal", "counts": counts}))


def test_the_published_table_has_every_row_within_its_bounds(published):
    assert ROWS.keys() <= published.keys()
    assert [text for record in published.values() for text in broken(record)] == []


def test_the_published_kernels_are_as_they_should_be():
    records = kernel_records(ROOT / "benchmarks" / "results").all()
    rows = {f"graphs: {name}" for name in MADE} | {f"bits: {name}" for name in COMPARED}
    rows |= {f"own_kernels: {name}" for name in MOST}
    assert rows <= {record["row"] for record in records}
    assert [text for record in records for text in faults(record)] == []
