"""The peak of a training step is of the model it says, and holds weights, gradients and state."""

import json

import pytest
import torch

from benchmarks.shared.llama import SETS
from benchmarks.shared.llama_model import set_checkpointing
from benchmarks.train_memory.__main__ import main
from benchmarks.train_memory.measure import build

pytestmark = pytest.mark.slow

TINY = SETS["tiny"]


def test_shapes_are_those_of_transformers():
    model = build("tiny", "cpu")
    set_checkpointing(model, True)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == TINY.shapes
    assert model.dtype == torch.bfloat16 and model.is_gradient_checkpointing


def test_peak_memory_of_a_training_step(tmp_path):
    main(["--device", "cpu", "--only", "torch-adamw", "adamw", "frugal-0", "--out", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "train_memory.jsonl").read_text().splitlines()]
    plain, full, free = (row for row in rows)
    assert not any("failed" in row for row in rows)
    weights = plain["weight_bytes"]
    assert weights == 2 * sum(torch.Size(s).numel() for s in TINY.shapes.values())
    assert full["state_bytes"] == pytest.approx(4 * weights, rel=0.01)
    assert free["state_bytes"] < full["state_bytes"] / 2
    for row in rows:  # weights, gradients and state are there together when the update begins
        assert row["peak_bytes"] >= 2 * weights + row["state_bytes"]
    assert full["peak_bytes"] - free["peak_bytes"] > 0.5 * (full["state_bytes"] - free["state_bytes"])


def test_the_plan_is_near_what_is_measured(tmp_path):
    for more in ([], ["--plan"]):
        main(["--device", "cpu", "--only", "torch-adamw", "frugal-fused", "--out", str(tmp_path), *more])
    measured, planned = (
        {row["method"]: row for row in map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())}
        for name in ("train_memory", "train_memory_plan")
    )
    assert "policies alone" in planned["torch-adamw"]["failed"]
    peak = measured["frugal-fused"]["peak_bytes"]
    assert planned["frugal-fused"]["peak_bytes"] == pytest.approx(peak, rel=0.15)
