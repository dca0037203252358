"""The check of a device against the CPU sees what is wrong, and survives what a device can do to a process."""

import math

import pytest
import torch

from benchmarks.correctness import cases, outcome, training, workers
from benchmarks.correctness.case import Case
from benchmarks.correctness.cases import cases_of
from benchmarks.correctness.training import Trained, differences
from hybridopt.core.errors import HybridOptError
from hybridopt.core.registry import names
from support import fake_worker

FRUGAL = Case("eager", "frugal", 8, "fused")


def trained(losses, after, before=(0.0, 0.0)):
    return Trained(losses, {"w": torch.tensor(before)}, {"w": torch.tensor(after)})


# ---- cases


def test_every_policy_is_there_in_every_way():
    found = cases_of(["eager", "compiled"], fast=False)
    ways = {(case.policy, case.lora, case.release, case.compile) for case in found}
    assert len(ways) == len(found) == 8 * (len(names("policies")) - 1) and "qzo" not in {w[0] for w in ways}
    assert "qzo" in {case.policy for case in cases_of(["quantized"], fast=False)}
    assert len(set(map(str, found))) == len(found)
    assert {case.policy for case in cases_of(["eager"], fast=True)} == set(cases.FEW)


# ---- what differs


def test_differences_are_relative_to_losses_weights_and_what_was_changed():
    off = differences(trained([2.0, 1.0], (0.1, -0.1)), trained([2.0, 1.1], (0.1, 0.1)))
    assert off == pytest.approx({"losses": 0.1, "weights": 2.0, "update": math.sqrt(2)})
    still = differences(trained([1.0], (0.0, 0.0)), trained([1.0], (0.0, 0.0)))
    assert still["update"] == math.inf


def test_a_case_on_this_cpu_is_as_on_the_cpu():
    (row,) = outcome.outcomes(FRUGAL, "cpu")
    assert row["state"] == "ok" and row["off"] == {"losses": 0, "weights": 0, "update": 0}, row
    assert row["case"] == "frugal, LoRA r=8, fused, eager" and row["reread"] is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"weights": (0.1, -0.10001)}, "ok"),
        ({"weights": (0.1, -0.09)}, "update off by 7.1e-02, at most 5e-02"),
        ({"losses": [2.0, 1.1]}, "losses off by 1.0e-01"),
        ({"losses": [2.0, math.nan]}, "losses off by nan"),
        ({"reread": False}, "what was read is not what was saved"),
        ({"raises": RuntimeError("CUDA error: x")}, "RuntimeError: CUDA error: x"),
    ],
)
def test_what_is_wrong_on_the_device_is_said(monkeypatch, wrong, said):
    def train(case, device, compile, start=None):
        if device == "cpu":
            return trained([2.0, 1.0], (0.1, -0.1))
        if "raises" in wrong:
            raise wrong["raises"]
        found = trained(wrong.get("losses", [2.0, 1.0]), wrong.get("weights", (0.1, -0.1)))
        found.reread = wrong.get("reread")
        return found

    monkeypatch.setattr(outcome, "train", train)
    row = outcome.outcome(FRUGAL, "cuda")
    assert row["state"] == "ok" if said == "ok" else row["state"] == "fail" and said in row["said"]


def test_some_turned_signs_among_thousands_of_weights_are_no_fault():
    ends = torch.zeros(4000).index_fill(0, torch.arange(2), 1.0)
    few, many = (ends.index_fill(0, torch.arange(2, 2 + n), 0.5) for n in (3, 9))
    start = torch.full((4000,), 3.0)
    wanted, near, far = (Trained([1.0], {"w": start}, {"w": x}) for x in (ends, few, many))
    assert [differences(wanted, x)["weights"] for x in (near, far)] == [0, 0.5]
    assert math.isnan(differences(wanted, Trained([1.0], {"w": start}, {"w": ends * math.nan}))["weights"])


@pytest.mark.parametrize(("weights", "state"), [((0.1, -0.09), "info"), ((0.1, -0.05), "fail"), ((-0.1, 0.1), "fail")])
def test_what_last_bits_of_the_weights_do_on_the_cpu_a_device_may_do(monkeypatch, weights, state):
    """Signs and near losses turn numbers of an update: FZOO, Q-GaLore and Lion would look wrong on every device."""
    starts = []

    def train(case, device, compile, start=None):
        starts.append(start)
        if device == "cuda":
            return trained([2.0, 1.0], weights)
        return trained([2.0, 1.0], (0.1, -0.1) if start is None else (0.1, -0.097))

    monkeypatch.setattr(outcome, "train", train)
    row = outcome.outcome(FRUGAL, "cuda")
    assert row["state"] == state and len(starts) == 3, row
    assert state == "fail" or "last bits" in row["said"]


def test_last_bits_are_shaken_alike_every_time():
    one, other = (training.shaken({"w": torch.ones(100)})["w"] for _ in range(2))
    assert one.equal(other) and 0 < (one - 1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("answer", "state"),
    [(HybridOptError("no such thing"), "refused"), (RuntimeError("x"), "fail"), (None, "fail")],
    ids=["refused", "breaks", "runs"],
)
def test_what_the_cpu_refuses_has_to_be_refused(monkeypatch, answer, state):
    def train(case, device, compile, start=None):
        if device == "cpu":
            raise HybridOptError("no such thing")
        if answer is not None:
            raise answer

    monkeypatch.setattr(outcome, "train", train)
    assert outcome.outcome(FRUGAL, "cuda")["state"] == state


def test_what_is_saved_is_compared_with_what_is_read(monkeypatch):
    assert training.train(Case("quantized", "frugal", saved=True), "cpu", False).reread is True
    base = training.base

    def other(device):
        model = base(device)
        model.lm_head.weight.data[0, 0] += 1
        return model

    model = training.hybridopt.wrap(base("cpu"), "frugal")
    monkeypatch.setattr(training, "base", other)
    with pytest.raises(HybridOptError):  # another base is noticed on its own
        training.reread(model, "cpu")


def test_the_checks_of_the_doctor_are_cases():
    found = cases_of(["doctor"], fast=True)
    assert {"philox", "rounding", "signsgd", "mezo", "replay"} <= set(map(str, found))
    rows = outcome.outcomes(next(case for case in found if case.policy == "philox"), "cpu")
    assert rows[0]["case"] == "philox" and {row["state"] for row in rows} == {"ok"}, rows
    assert len({row["case"] for row in rows}) == len(rows)


def test_lines_of_one_name_are_rows_of_their_own(monkeypatch):
    from hybridopt.cli.doctor import examine
    from hybridopt.cli.doctor.finding import FAIL, OK, Finding

    found = [
        Finding("a", FAIL, "broken", "mend it"),
        Finding("a", OK, "there"),
        Finding("b", OK, "there", "", {"x": 1}),
    ]
    monkeypatch.setattr(examine, "outcome", lambda check, machine: found)
    rows = outcome.outcomes(Case("doctor", "philox"), "cpu")
    assert [(row["case"], row["state"]) for row in rows] == [("a", "fail"), ("a (2)", "ok"), ("b", "info")]


# ---- processes


def test_a_process_that_crashes_hangs_or_loses_its_device_is_replaced(monkeypatch):
    monkeypatch.setattr(workers, "serve", fake_worker.serve)
    monkeypatch.setattr(workers, "SECONDS", 2.0)
    rows = []
    order = ("a", "b", "crash", "c", "hang", "d", "lost", "e")
    workers.work([Case("eager", name) for name in order], 1, "cuda", rows.extend)
    said = [row["said"] for row in rows]
    assert said[2] == "its process ended: 9" and said[4] == "stopped after 2 s"
    process = [said[number] for number in (0, 1, 3, 5, 7)]
    assert process[0] == process[1] and len(set(process)) == 4
    assert [row["state"] for row in rows].count("fail") == 2


def test_several_processes_work_on_all_cases(monkeypatch):
    monkeypatch.setattr(workers, "serve", fake_worker.serve)
    rows = []
    workers.work([Case("eager", f"p{number}") for number in range(8)], 2, "cpu", rows.extend)
    assert sorted(row["case"] for row in rows) == [f"p{n}, full, accumulate, eager" for n in range(8)]
