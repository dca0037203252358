"""What a run is planned to take is what its trainer takes: losses are computed in TRL's own tiles."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trl.kernels import chunked_logprob
from trl.trainer import utils

from hybridopt.integrations.trl import fused
from hybridopt.integrations.trl.few_tiles import with_few_tiles
from hybridopt.planning.trace.tracker import Tracker
from hybridopt.training.running.loading import load_model
from hybridopt.training.running.prepare import prepare
from hybridopt.training.running.quiet import quietly

pytestmark = pytest.mark.slow

RUNS = {
    "sft": ("messages", ()),
    "sft on lora": ("messages", ("method.lora=4",)),
    "sft fused": ("messages", ("method={policy: lomo, release: fused}", "train.clip=null")),
    "sft on sampled inputs": ("messages", ("method={policy: adamw, activations: wta-crs}",)),
    "dpo": ("preference", ()),
    "dpo on lora": ("preference", ("method.lora=4",)),
    "dpo on int8-trainable": ("preference", ("method.policy=frugal", "method.quantization=int8-trainable")),
    "reward": ("preference", ("task=reward",)),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_planned_peak_is_the_measured_one(name, workshop, monkeypatch):
    format, settings = RUNS[name]
    monkeypatch.setattr("hybridopt.training.method.planner.room_of", on_cpu)
    run = workshop.run("train.max_steps=2", *settings, format=format, count=8)
    prepared = prepare(run)
    with quietly():
        model = load_model(prepared.run, Path(run.model), prepared.task, prepared.config)
        job = replace(prepared.rehearsal.job, model=model, folder=str(workshop.folder / "out"))
        trainer = prepared.task.trainer(job)
        assert (model.hybrid.activations is not None) == ("sampled" in name)
        with Tracker([*model.parameters(), *model.buffers()], "cpu") as tracker:
            trainer.train()
    estimate = prepared.chosen.estimate
    measured = estimate.weights_bytes + tracker.peak
    assert abs(estimate.peak_bytes - measured) < 0.05 * measured  # masks and the like count in a model this small


def on_cpu(run):
    from hybridopt.core.budget import budget

    return budget("1GiB", run.margin), "cpu", []


def test_tiles_are_as_large_as_trls():
    assert (fused.TOKENS, fused.WORDS) == (chunked_logprob.TOKEN_CHUNK_SIZE, utils._CHUNKED_LOGPROB_CHUNK_SIZE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [False, True], ids=["head frozen", "head trained"])
def test_on_a_gpu_the_memory_of_trls_function_is_planned_without_what_its_kernels_do(dtype, trained, monkeypatch):
    for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
        monkeypatch.setattr(chunked_logprob, name, lambda *_, **__: None)
    hidden = torch.zeros(300, 16, dtype=dtype, requires_grad=True)
    weight = torch.zeros(1000, 16, dtype=dtype, requires_grad=trained)
    targets = torch.zeros(300, dtype=torch.long)

    def theirs():
        size = utils._CHUNKED_LOGPROB_CHUNK_SIZE
        return chunked_logprob.ChunkedLogProbFunction.apply(
            hidden, weight, None, targets, 1.0, size, None, 1.0, fused.OUTPUTS
        )[0]

    def ours():
        return fused._Tiles.apply(hidden, weight, None)

    peaks = []
    for function in (theirs, ours):
        hidden.grad = weight.grad = None
        with Tracker([hidden, weight, targets]) as tracker:
            function().sum().backward()
        peaks.append(tracker.peak)
    assert abs(peaks[0] - peaks[1]) < 0.01 * peaks[0]


@pytest.mark.parametrize("tokens", [8, 20, 24, 60, 1000])
@pytest.mark.parametrize("trained", [False, True], ids=["head frozen", "head trained"])
def test_tiles_that_are_alike_are_left_out_and_the_peak_stays(tokens, trained, monkeypatch):
    tiles, peaks = [], []
    monkeypatch.setattr(chunked_logprob, "TOKEN_CHUNK_SIZE", 8)
    for name in ("_forward_tile", "_backward_tile"):
        true = getattr(chunked_logprob, name)
        monkeypatch.setattr(chunked_logprob, name, lambda *a, true=true, **k: tiles.append(0) or true(*a, **k))
    hidden = torch.zeros(tokens, 16, requires_grad=True)
    weight = torch.zeros(100, 16, requires_grad=trained)
    targets = torch.zeros(tokens, dtype=torch.long)

    def loss():
        numbers = (hidden, weight, None, targets, 1.0, 50, None, 1.0, fused.OUTPUTS)
        return utils._ChunkedLogProbFunction.apply(*numbers)[0].sum()

    for function in (loss, with_few_tiles(loss), loss):
        hidden.grad = weight.grad = None
        tiles.clear()
        with Tracker([hidden, weight, targets], "cpu") as tracker:
            function().backward()
        peaks.append((len(tiles), tracker.peak))
    (every, peak), few, again = peaks
    assert every == 4 * -(-tokens // 8) and few == (min(every, 12), peak) and again == (every, peak)
