"""A run whose windows and rate were settled when it began goes on by the same run.yaml, and by no other."""

from types import SimpleNamespace

import pytest

from hybridopt import HybridOptError
from hybridopt.training.config.reading import read_run
from hybridopt.training.running.resuming import resumed

BASE = "model: m\ndata: rows.jsonl\n"
ASKED = "method: {policy: lion, options: {}}\ntrain: {lr: 1.0e-4, lr_batch: 16, batch: 4, accumulate: 16}\n"


def run(text):
    return read_run(BASE + text, [])


def begun(text):
    return SimpleNamespace(before=(run(text), {}), run="out/run.yaml")


def test_a_converted_rate_is_the_same_rate():
    before = begun("method: lion\ntrain: {lr: 2.0e-4, batch: 4, accumulate: 16}\n")
    assert resumed(run(ASKED), before).train.lr == 2e-4
    with pytest.raises(HybridOptError, match=r"train\.lr is 0\.0004 now, and was 0\.0002"):
        resumed(run(ASKED.replace("lr: 1.0e-4", "lr: 2.0e-4")), before)


@pytest.mark.parametrize(("options", "same"), [("{}", True), ("{update_gap: 10}", True), ("{update_gap: 7}", False)])
def test_windows_that_were_shortened_stay_so(options, same):
    before = begun("method: {policy: frugal, options: {update_gap: 10}}\n")
    asked = run(f"method: {{policy: frugal, options: {options}}}\n")
    if same:
        assert resumed(asked, before).method.options == {"update_gap": 10}
    else:
        with pytest.raises(HybridOptError, match=r"method\.options is .*7.* now, and was .*10"):
            resumed(asked, before)
