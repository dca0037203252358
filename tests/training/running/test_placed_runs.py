"""Runs whose layers rest on disk: the same losses as of resident ones, written back, and shown before."""

import pytest
import torch

from hybridopt.model.placement.placed import placed
from hybridopt.training.config.reading import read_run
from hybridopt.training.running import train as training
from hybridopt.training.running.prepare import prepare
from support.tiny_chat import save_tiny_chat

pytestmark = pytest.mark.slow

SETS = ("gpu=auto", "method.lora={r: 4}", "train.dtype=bf16", "train.max_steps=3")
DISK = "method.placement={base: disk, slots: 2}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_chat(tmp_path_factory.mktemp("deep") / "model", layers=3, dtype=torch.bfloat16)


def test_a_run_from_disk_learns_what_a_resident_one_does(model, workshop, monkeypatch):
    seen = []
    load = training.load_model
    monkeypatch.setattr(training, "load_model", lambda *how: seen.append(load(*how)) or seen[-1])
    for out, sets in (("near", ()), ("far", (DISK,))):
        prepared = prepare(workshop.run(*SETS, *sets, model=model, out=out))
        training.train(prepared)
    near, far = ([record["loss"] for record in workshop.log(out) if "loss" in record] for out in ("near", "far"))
    assert near == far and len(far) == 3
    told = [next(r for r in reversed(workshop.log(out)) if "weights_bytes" in r) for out in ("near", "far")]
    assert told[0]["weights_bytes"] == told[1]["weights_bytes"] + sum(unit.nbytes for unit in placed(seen[1]).units)
    assert 0 < told[1]["near_bytes"] <= 2 * placed(seen[1]).units[0].nbytes
    assert placed(seen[0]) is None and placed(seen[1]).traffic.fetches > 3
    assert read_run(workshop.folder / "far" / "run.yaml").method.placement.base == "disk"
    assert prepared.chosen.estimate.carried.read and any("read" in line for line in prepared.chosen.told)
