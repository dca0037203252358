"""What is measured of `hybridopt train` is what the command has left behind, and its table holds it to that."""

import json

import pytest

from benchmarks.gpu.line import broken
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.views import VIEWS
from benchmarks.trained.__main__ import main

pytestmark = pytest.mark.slow

GPU = Machine("cuda", 1 << 36)


def row(peak=100, first=5.0, last=2.0):
    return {
        "method": "a", "peak_bytes": peak, "planned_bytes": 100, "first_loss": first, "last_loss": last,
        "tokens_per_second": 1000.4,
    }  # fmt: skip


def reached(machine, *rows):
    return [line.reached for line in VIEWS["train"].lines({"train": list(rows)}, machine)]


def test_a_run_is_measured(tmp_path, capsys):
    main(["--device", "cpu", "--only", "frugal", "--out", str(tmp_path)])
    (found,) = map(json.loads, (tmp_path / "trained.jsonl").read_text().splitlines())
    assert "failed" not in found and found["steps"] == 8 and found["device"] == "cpu"
    assert found["measured"]["weights"] == found["planned"]["weights"]
    assert found["measured"]["state"] == found["planned"]["state"]
    assert found["last_loss"] < 0.6 * found["first_loss"] and found["tokens_per_second"] > 0
    (line,) = VIEWS["train"].lines({"train": [found]}, Machine("cpu"))
    assert len(line.cells) == len(VIEWS["train"].columns) and line.reached and line.aim == "a loss that falls"


def test_plans_are_held_to_their_word_on_a_gpu_and_losses_everywhere():
    assert reached(GPU, row(), row(peak=110), row(last=5.0)) == [True, False, False]
    assert reached(Machine("cpu"), row(peak=900), row(last=6.0)) == [True, False]


def test_a_run_that_fails_costs_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hybridopt.cli.train.NEEDED", ("no_such_library",))
    main(["--device", "cpu", "--only", "frugal", "lora", "--out", str(tmp_path)])
    rows = list(map(json.loads, (tmp_path / "trained.jsonl").read_text().splitlines()))
    assert [found["method"] for found in rows] == ["frugal", "lora"] and "no_such_library" in rows[1]["failed"]
    assert VIEWS["train"].lines({"train": rows[:1]}, GPU) == [broken("frugal", rows[0]["failed"])]


def test_nothing_is_begun_when_the_time_is_over(tmp_path, capsys):
    main(["--device", "cpu", "--minutes", "0", "--out", str(tmp_path)])
    rows = list(map(json.loads, (tmp_path / "trained.jsonl").read_text().splitlines()))
    assert {found["failed"] for found in rows} == {"no time left"} and len(rows) == 5
