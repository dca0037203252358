"""A run whose weights no longer follow from its log on one rank: all ranks say so, and save tensors."""

import gc
import warnings

import pytest
import torch
from torch import distributed

import hybridopt
from hybridopt.saving.names import DELTA, REPLAY
from support.sharded_probing import Loss, probed
from support.sharding import sharded, weights

pytestmark = pytest.mark.slow


def made(shards=True):
    model = hybridopt.wrap(Loss(), policy="mezo")
    model = sharded(model) if shards else model
    return model, model.hybrid.optimizer(lr=0.05)


@torch.no_grad()
def write(model):
    """Change the last row of a weight that this rank has."""
    p = model.layers[0].weight
    (p.to_local() if hasattr(p, "to_local") else p)[-1].add_(1)


def written(folder, shards, steps):
    """Somebody writes to a weight on rank 1; save after so many steps more."""
    model, optimizer = made(shards)
    probed(model, {}, 2, 0, optimizer)
    if distributed.get_rank() == 1:
        write(model)
    probed(model, {}, steps, 2, optimizer)
    if shards:
        model.hybrid.save_pretrained(folder)
    return optimizer.log.broken, weights(model)


@pytest.mark.parametrize(("shards", "steps"), [(True, 0), (True, 1), (False, 1)])
def test_weights_that_one_rank_has_written_are_saved_as_tensors(shards, steps, two, tmp_path):
    (first, got), (second, _) = two.run(written, str(tmp_path), shards, steps)
    text = "'layers.0.weight' was changed by somebody else before step 2"
    assert first == f"on rank 1: {text}" and second == text
    if shards:
        assert (tmp_path / DELTA).exists() and not (tmp_path / REPLAY).exists()
        model = hybridopt.from_pretrained(Loss(), tmp_path)
        assert all(x.equal(got[n]) for n, x in weights(model).items())


def loaded(folder, asks):
    """Rank 1 goes on without the log that rank 0 has loaded; `asks`: what is called then."""
    model, optimizer = made()
    probed(model, {}, 2, 0, optimizer)
    state = optimizer.state_dict()
    if distributed.get_rank() == 1:
        state.pop("zeroth_order")
    optimizer.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if asks == "step":
            probed(model, {}, 1, 2, optimizer)
        elif asks == "state":
            assert optimizer.state_dict()["zeroth_order"]["broken"]
    model.hybrid.save_pretrained(folder)
    return optimizer.log.broken, weights(model)


@pytest.mark.parametrize("asks", ["step", "state", "save"])
def test_a_log_that_one_rank_has_not_loaded_is_broken_on_all(asks, two, tmp_path):
    (first, got), (second, _) = two.run(loaded, str(tmp_path), asks)
    assert first == second == "ranks have not loaded the same log: it holds 2 on rank 0, 0 on rank 1 steps"
    model = hybridopt.from_pretrained(Loss(), tmp_path)
    assert all(x.equal(got[n]) for n, x in weights(model).items())


def several(folder):
    """Train by three optimizers, of which one rank has lost the first, and the other the second."""
    model = sharded(hybridopt.wrap(Loss(), policy="mezo"))
    optimizers = []
    for step in range(3):
        optimizers.append(model.hybrid.optimizer(lr=0.05))
        probed(model, {}, 1, step, optimizers[-1])
    lost = optimizers.pop(distributed.get_rank())
    del lost
    gc.collect()
    model.hybrid.save_pretrained(folder)
    return [optimizer.log.broken for optimizer in optimizers], weights(model)


def test_optimizers_that_some_ranks_have_lost_are_not_waited_for(two, tmp_path):
    for broken, got in two.run(several, str(tmp_path)):
        assert "another rank has no optimizer" in broken[0] and "another rank" not in (broken[1] or "")
        model = hybridopt.from_pretrained(Loss(), tmp_path)
        assert all(x.equal(got[n]) for n, x in weights(model).items())
