"""A run goes on with another number of processes by steps of the same examples, or says with how many it can."""

from types import SimpleNamespace

import pytest

from hybridopt import HybridOptError
from hybridopt.training.config.reading import read_run
from hybridopt.training.running.resuming import resumed
from hybridopt.training.running.sharing import sharing_told

BASE = "model: m\ndata: rows.jsonl\n"


def run(batch, accumulate, more=""):
    return read_run(f"{BASE}{more}\ntrain: {{batch: {batch}, accumulate: {accumulate}, lr: 0.1}}", [])


def begun(batch, accumulate, processes):
    return SimpleNamespace(before=(run(batch, accumulate), {"processes": processes}), run="out/run.yaml")


@pytest.mark.parametrize(
    ("began", "processes", "found"),
    [
        ((3, 1, 2), 2, (3, 1)),
        ((3, 1, 2), 1, (3, 2)),
        ((3, 1, 2), 3, (2, 1)),
        ((3, 1, 2), 6, (1, 1)),
        ((4, 3, 1), 2, (3, 2)),
        ((1, 16, 1), 4, (1, 4)),
    ],
)
def test_a_step_keeps_its_examples(began, processes, found):
    place = begun(*began)
    given = resumed(run(*began[:2]), place, processes)
    assert (given.train.batch, given.train.accumulate) == found
    assert found[0] * found[1] * processes == began[0] * began[1] * began[2]
    told = sharing_told(given, processes, place)
    assert bool(told) == (processes != began[2])
    if told:
        assert f"by batch {found[0]} x accumulate {found[1]} x {processes} process" in told[0]


def test_what_cannot_be_shared_is_refused_with_what_can():
    with pytest.raises(HybridOptError, match=r"5 processes now.*6 examples.*start 1 or 2 or 3 or 6: torchrun"):
        resumed(run(3, 1), begun(3, 1, 2), 5)
    with pytest.raises(HybridOptError, match=r"torchrun --nproc-per-node 2 -m hybridopt train out/run.yaml --resume"):
        resumed(run(3, 1), begun(3, 1, 2), 5)


@pytest.mark.parametrize(("given", "processes"), [((1, 6), 1), ((1, 3), 2), ((6, 1), 1)])
def test_sizes_that_make_the_same_steps_may_be_given(given, processes):
    found = resumed(run(*given), begun(3, 1, 2), processes).train
    assert (found.batch, found.accumulate) == given


@pytest.mark.parametrize("processes", [1, 2])
def test_sizes_that_make_other_steps_are_refused(processes):
    with pytest.raises(HybridOptError, match=r"train\.batch is 4 now, and was 3 when the run began"):
        resumed(run(4, 1), begun(3, 1, 2), processes)


def test_processes_may_share_the_model_otherwise():
    assert resumed(run(3, 1, "parallel: fsdp"), begun(3, 1, 2), 2).parallel == "fsdp"
    place = begun(3, 1, 2)
    place.before = (run(3, 1, "parallel: fsdp"), {"processes": 2})
    assert resumed(run(3, 1), place, 1).parallel == "fsdp"
    assert resumed(run(3, 1, "parallel: ddp"), place, 2).parallel == "ddp"
