"""Parts of the GPU script on a machine that lacks bitsandbytes: a row of each says so, with the cure."""

import sys

import pytest

from benchmarks.correctness.case import Case
from benchmarks.correctness.outcome import outcomes
from benchmarks.fit_70b.plan import predict
from benchmarks.fit_70b.scenarios import SCENARIOS
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.views import VIEWS
from benchmarks.shared.placed_names import PLACED, RESIDENT
from benchmarks.staged.measure import rows
from benchmarks.staged.plan import planned


@pytest.fixture(autouse=True)
def lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)


def check(part, *found):
    """Hold the rows of a part to one line that names the cure."""
    (said,) = [line for line in VIEWS[part].lines({part: list(found)}, Machine("cuda")) if line.cells[0] != "all 1"]
    assert "pip install bitsandbytes" in " ".join(said.cells)


def test_plans():
    check("plan 70B", {"scenario": "frugal", "predicted": predict(SCENARIOS["frugal"], "tiny", "cpu", 8)})
    check("plan placement", {"how": PLACED, "tokens": 8} | planned("tiny-6", "cpu", PLACED, 8))


def test_layers_on_the_host():
    (row,) = rows("tiny-6", "cpu", (8, 16), lambda: 1.0)
    assert (row["how"], row["tokens"]) == (RESIDENT, 8)
    check("placement", row)


def test_policies_on_quantized_weights():
    check("policies", *outcomes(Case("quantized", "frugal", 8, quantization="nf4"), "cpu"))
