"""fit_70b has the shapes it says, runs every scenario, finds the longest sequence, and keeps what it has measured."""

import json
import subprocess
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks.fit_70b import bench, lengths, sequences
from benchmarks.fit_70b import run as scenario_run
from benchmarks.fit_70b.__main__ import main, parse
from benchmarks.fit_70b.model import SIZES, FromHost, build, prepared
from benchmarks.fit_70b.plan import predict
from benchmarks.fit_70b.scenarios import CONTEXT, GIB, SCENARIOS, SHORTEST
from benchmarks.fit_70b.table import FILE, records_at, terminal
from benchmarks.shared import processes
from benchmarks.shared.peak import Peak
from benchmarks.shared.tensor_bytes import live
from hybridopt.core.errors import HybridOptError
from hybridopt.core.registry import names
from hybridopt.integrations.bitsandbytes import frozen
from support import quantization

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the output layer is state-free", "ignore:.gradient_checkpointing_enable"),
]


def options(*arguments):
    return parse([*arguments, "--device", "cpu"])


class Steps:
    """Stands for a bench: so many bytes by the length, and an end of memory."""

    def __init__(self, peak, most=10**9):
        self.peak, self.most, self.found, self.tried = peak, most, {}, []

    def steps(self, sequence, count):
        self.tried.append(sequence)
        if sequence > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.note(sequence=sequence)
        return self.peak(sequence)

    def note(self, **values):
        self.found |= values

    def clear(self):
        pass


# ---- the model


def test_shapes_are_those_of_llama_3_70b():
    with torch.device("meta"):
        model = LlamaForCausalLM(SIZES["70b"])
    assert sum(p.numel() for p in model.parameters()) == 70_553_706_496
    linear = quantization.targets_of(model, "nf4", ["lm_head"])
    assert len(linear) == 560 and sum(model.get_submodule(n).weight.numel() for n in linear) == 68_451_041_280


def test_weights_are_quantized_while_they_are_made(monkeypatch):
    monkeypatch.setattr(frozen, "PIECE", 1 << 10)
    with Peak("cpu") as peak:
        model = build("tiny", SCENARIOS["frugal"], "cpu")
    own = live("cpu", [model])
    layer = 2 * max(p.numel() for p in model.parameters())
    assert own <= peak.extra < own + layer + 100_000
    assert len({p.sum().item() for n, p in model.named_parameters() if "norm" not in n and p.is_floating_point()}) == 2


def test_a_table_on_the_host_says_the_same():
    model = LlamaForCausalLM(SIZES["tiny"])
    tokens = torch.arange(8)[None]
    wanted = model(tokens).logits
    FromHost.of(model)
    assert torch.equal(model(tokens).logits, wanted)
    assert not model.get_input_embeddings().weight.requires_grad


def test_adapters_have_the_dtype_of_the_scenario():
    for name, dtype in (("frugal", torch.bfloat16), ("qlora", torch.float32)):
        model = prepared(build("tiny", SCENARIOS[name], "cpu"), SCENARIOS[name])
        assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {dtype}
        kept = {p.dtype for n, p in model.named_parameters() if "lora_" not in n}
        assert kept == {torch.bfloat16, torch.uint8} and model.is_gradient_checkpointing


# ---- the measurement


@pytest.mark.parametrize("name", [n for n in SCENARIOS if SCENARIOS[n].policy in names("policies")])
def test_every_scenario_runs_and_is_predicted(tmp_path, name):
    found = scenario_run.measure(name, "tiny", "cpu", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == found
    assert found["random_weights"] and 5 < found["loss"] < 8 and found["tokens_per_second"] > 0
    assert found["model_bytes"] + found["optimizer_bytes"] < found["peak_bytes"] < 10 * found["model_bytes"]
    assert (found["sequence"] > 2 * SHORTEST) == (name == "longest") and "before" not in found
    plan = predict(SCENARIOS[name], "tiny", "cpu", found["sequence"])
    assert plan["peak_bytes"] == pytest.approx(found["peak_bytes"], rel=0.1)


def predicted(scenario, sequence, peak):
    return {"scenario": scenario, "settings": {}, "predicted": {"sequence": sequence, "peak_bytes": peak}}


def test_the_longest_sequence_is_planned_to_fill_the_card_and_no_more(tmp_path, monkeypatch):
    records = records_at(tmp_path / FILE)
    monkeypatch.setattr(lengths, "records_at", lambda: records)
    with pytest.raises(HybridOptError, match="'longest': its length follows from predictions; make them"):
        lengths.planned_length("longest", "70b", None)
    records.put(predicted("frugal", 2048, 40 * GIB))
    records.put(predicted("longest", 22_048, 80 * GIB))
    each = 40 * GIB / 20_000  # bytes a token
    for card in (None, 60 * GIB, 139 * GIB):
        length = lengths.planned_length("longest", "70b", card)
        peak, room = 40 * GIB + (length - 2048) * each, min(card or 80 * GIB, 80 * GIB)
        assert 0.96 * room - CONTEXT < peak < 0.97 * room
    assert lengths.planned_length("longest", "tiny", None) > 2 * SHORTEST


def test_what_was_planned_too_long_is_tried_shorter():
    tight = Steps(lambda length: length, most=9_600)
    sequences.first_that_fits(tight, sequences.shorter(10_000))
    assert tight.found["sequence"] == 9_500 and tight.found["failed_sequences"] == [10_000]


def test_a_scenario_is_measured_first_with_the_same_model(tmp_path, monkeypatch):
    found = {"sequence": 9, "before": {"sequence": 2}}
    calls = []

    def measured(name, seconds, options, first, keep):
        calls.append((name, first))
        keep({"sequence": 2})  # while it is at work
        assert {r["scenario"]: r["measured"] for r in records.all()}["frugal"] == {"sequence": 2}
        return found

    monkeypatch.setattr(bench, "measured", measured)
    records = records_at(tmp_path / FILE)
    bench.run(options("--measure-only", "--only", "frugal", "longest"), records, lambda text: None)
    assert {r["scenario"]: r["measured"]["sequence"] for r in records.all()} == {"frugal": 2, "longest": 9}
    assert calls == [("longest", "frugal")]
    stopped = bench.divided("longest", "frugal", {"sequence": 2, "failed": "stopped"})
    assert stopped == {"frugal": {"sequence": 2, "failed": "stopped"}, "longest": {"failed": "stopped"}}


def test_what_is_known_is_kept_while_it_is_at_work(monkeypatch):
    seen = Event()
    monkeypatch.setattr(bench, "EVERY", 0.01)
    with bench.repeated(seen.set):
        assert seen.wait(5)


def test_shorter_sequences_are_tried_where_longer_ones_do_not_fit():
    steps = Steps(lambda length: length, most=600)
    sequences.first_that_fits(steps, (2048, 1024, 512))
    assert steps.found["sequence"] == 512 and steps.found["failed_sequences"] == [2048, 1024]
    with pytest.raises(MemoryError, match="none of the sequences"):
        sequences.first_that_fits(steps, (2048, 1024))


# ---- the plan


def test_the_plan_says_that_70b_fits_40_gib_where_usually_it_does_not():
    ours, usual = (predict(SCENARIOS[name], "70b", "cuda", 2048)["peak_bytes"] for name in ("frugal", "qlora"))
    assert ours < 40 * GIB < 44 * GIB < usual


# ---- the command


def test_a_scenario_of_its_own_process_and_a_prediction_beside(tmp_path, capsys):
    arguments = ["--device", "cpu", "--only", "qzo", "--out", str(tmp_path)]
    main([*arguments, "--measure-only", "--seconds", "120"])
    main([*arguments, "--simulate"])
    out = capsys.readouterr().out
    (row,) = json.loads(out.splitlines()[-1])
    assert row == json.loads((tmp_path / FILE).read_text()) and row["scenario"] == "qzo"
    assert "failed" not in row["measured"] and row["predicted"]["sequence"] == row["measured"]["sequence"] == SHORTEST
    assert "random weights" in out and SCENARIOS["qzo"].label in out


def test_what_fails_is_a_row_like_any_other(tmp_path, monkeypatch):
    found = {"peak_bytes": GIB, "sequence": 512}

    def stopped(command, timeout, **_):
        Path(command[command.index("--file") + 1]).write_text(json.dumps(found))
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(processes.subprocess, "run", stopped)
    assert bench.measured("full", 33.0, options()) == found | {"failed": "stopped after 33 s"}
    broken = SimpleNamespace(returncode=-9, stderr="Killed")
    monkeypatch.setattr(processes.subprocess, "run", lambda *a, **k: broken)
    assert bench.measured("full", 33.0, options()) == {"failed": "exit -9: Killed"}
    assert bench.measured("full", 3.0, options()) == {"failed": "no time left"}
    records = records_at(tmp_path / FILE)
    bench.run(options("--measure-only", "--minutes", "0"), records, lambda text: None)
    assert {row["measured"]["failed"] for row in records.all()} == {"no time left"}
    assert terminal(records.all()).row_count == len(SCENARIOS)


def test_an_error_within_a_scenario_keeps_what_was_found(tmp_path, monkeypatch):
    file = tmp_path / "found.json"

    def broken(name, size, device, path, first):
        path.write_text('{"model_bytes": 7}')
        raise MemoryError("none fits")

    monkeypatch.setattr(scenario_run, "measure", broken)
    scenario_run.main(["full", "--file", str(file)])
    assert json.loads(file.read_text()) == {"model_bytes": 7, "failed": "MemoryError: none fits"}


def test_the_whole_size_is_not_tried_on_a_cpu():
    with pytest.raises(SystemExit):
        options("--size", "70b")
    assert parse(["--simulate"]).size == "70b"
