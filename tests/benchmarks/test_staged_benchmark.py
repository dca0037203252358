"""The benchmark of layers on the host, in tiny form."""

import pytest

from benchmarks.shared.placed_names import GRADIENTS, PLACED, RESIDENT
from benchmarks.staged import measure
from benchmarks.staged.measure import rows
from benchmarks.staged.plan import planned

pytestmark = pytest.mark.slow


def test_the_same_model_is_measured_on_the_device_and_on_the_host(monkeypatch):
    monkeypatch.setattr(measure, "STEPS", 1)
    left = iter((1, 1))
    found = list(rows("tiny-6", "cpu", (8,), lambda: next(left)))
    assert [(row["how"], row["tokens"]) for row in found] == [(RESIDENT, 8), (GRADIENTS, 8), (PLACED, 8)]
    assert (found[1]["differ"], found[1]["differ_resident"], found[1]["adapters"]) == (0, 0, 84)
    on_host = found[2]
    assert on_host["weight_bytes"] <= on_host["pinned_bytes"] == on_host["host_bytes"] < 1.1 * on_host["weight_bytes"]
    assert 0.9 * on_host["weight_bytes"] < on_host["moved_bytes_per_step"] < 2 * on_host["weight_bytes"]
    plan = planned("tiny-6", "cpu", PLACED, 8)["peak_bytes"]
    assert plan < on_host["peak_bytes"] < plan + on_host["weight_bytes"] + 2**20  # the host is the device, too
