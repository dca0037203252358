"""Ranks that disagree, stop, or raise: the others are told, and never left waiting; so are layouts that cannot be."""

import os
import time
import warnings
from unittest.mock import patch

import pytest
import torch
from torch import distributed

from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.optimizer import rank_agreement
from hybridopt.parts.rules.muon import Muon
from support.ranks import Ranks
from support.sharded_probing import Loss, batch, probed
from support.sharding import Odd, give, place, sharded, trained, weights

pytestmark = pytest.mark.slow

DIFFERENT = {
    "seed": ({"seed": 1}, "seed of parameter 'embed.weight' is 1 on rank 0 and 2 on rank 1"),
    "policy": (
        {"policy": "adamw"},
        "treatment of parameter 'embed.weight' is .*rules.adamw.* on rank 0 and .*rules.lion.*",
    ),
    "lr": ({"lr": 0.1}, "lr of parameter 'embed.weight' is 0.1 on rank 0 and 0.2 on rank 1"),
    "decay": ({"weight_decay": 0.1}, "weight_decay of parameter 'embed.weight' is 0.1 on rank 0 and 0.2 on rank 1"),
    "clip": ({"clip": 1.0}, "clip is Clip.limit=1.0.* on rank 0 and Clip.limit=2.0.* on rank 1"),
    "release": ({"release": "accumulate"}, "release is 'accumulate' on rank 0 and 'fused' on rank 1"),
    "nonfinite": ({"nonfinite": "raise"}, "nonfinite is 'raise' on rank 0 and 'skip' on rank 1"),
    "version": ({}, "hybridopt's version is 1.0 on rank 0 and 2.0 on rank 1"),
}
OTHER = {"policy": "lion", "release": "fused", "nonfinite": "skip"}


def message(options, version=None):
    """Train one step; return the error, and whether the weights are as they were."""
    rank = distributed.get_rank()
    mine = {k: (v if isinstance(v, str) else v * (rank + 1)) for k, v in options.items()}
    mine = {k: OTHER.get(k, v) if rank and isinstance(v, str) else v for k, v in mine.items()}
    model, seen = sharded(Odd()), rank_agreement.__version__
    before = weights(model)
    try:
        with patch.object(rank_agreement, "__version__", f"{rank + 1}.0" if version else seen):
            trained(model, {k: v for k, v in mine.items() if k != "lr"}, 1, lr=mine.get("lr", 0.05))
    except HybridOptError as error:
        same = all(x.equal(before[n]) for n, x in weights(model).items())
        return str(error), same
    return None, None


def once():
    """A rank that owns a matrix fails at it: all are told which, and why; the next step is sound."""

    def fails(self, grad, state, param, now):
        raise ValueError("no memory for this")

    model = sharded(Odd())
    optimizer = trained(model, {"policy": "muon"}, 1)
    with patch.object(Muon, "update", fails) if distributed.get_rank() == 1 else warnings.catch_warnings():
        try:
            trained(model, {}, 1, 1, optimizer)
        except HybridOptError as error:
            text = str(error)
    trained(model, {}, 1, 2, optimizer)
    return text


def alone(raises):
    """Rank 1 ends, or raises before the step; the other steps."""
    model = sharded(Odd())
    optimizer = HybridOptimizer(model.named_parameters(), 0.05, policy="adafactor", nonfinite="ignore")
    trained(model, {}, 1, optimizer=optimizer)
    if distributed.get_rank() == 1:
        if raises:
            raise ValueError("my own error")
        os._exit(1)
    start = time.monotonic()
    try:
        give(model, 1)
        optimizer.step()
    except HybridOptError as error:
        return str(error), time.monotonic() - start
    return None, None


@pytest.mark.parametrize("name", DIFFERENT)
def test_ranks_that_disagree_are_told_in_the_first_step(name, two):
    options, expected = DIFFERENT[name]
    (first, same), (second, also) = two.run(message, options, name == "version")
    assert first == second and same and also
    with pytest.raises(HybridOptError, match=f"ranks do not train the same: {expected}.*nothing was changed"):
        raise HybridOptError(first)


def test_a_rank_that_fails_at_its_matrix_tells_all(two):
    for text in two.run(once):
        assert text.startswith("rank 1, which updates some parameters for all, has failed")
        assert "ValueError: no memory for this" in text


@pytest.mark.parametrize("raises", [True, False])
def test_a_rank_that_stops_leaves_no_other_waiting(raises):
    ranks = Ranks(2, patience=5)
    try:
        ranks.pipes[0].send_bytes(pickled((alone, (raises,))))
        ranks.pipes[1].send_bytes(pickled((alone, (raises,))))
        good, (text, seconds) = unpickled(ranks.pipes[0].recv_bytes())
        assert good and text.startswith("rank 0 could not meet the others to add up") and seconds < 20
    finally:
        ranks.close()


def probing(raises):
    """Rank 1 stops while losses are worked out, for which the other gathers weights."""
    model = sharded(Loss())
    optimizer = probed(model, {"policy": "mezo"}, 1)
    start, before = time.monotonic(), weights(model)

    def closure():
        if distributed.get_rank() == 1:
            if raises:
                raise ValueError("my own error")
            os._exit(1)
        return model(batch(1))

    try:
        optimizer.step(closure)
    except HybridOptError as error:
        shards = {n: p.to_local() for n, p in model.named_parameters()}
        same = all(x.equal(place(before[n], model.get_parameter(n)).to_local()) for n, x in shards.items())
        return str(error), time.monotonic() - start, same
    return None


@pytest.mark.parametrize("raises", [True, False])
def test_a_rank_that_stops_within_a_loss_leaves_no_other_waiting(raises):
    ranks = Ranks(2, patience=5)
    try:
        for pipe in ranks.pipes:
            pipe.send_bytes(pickled((probing, (raises,))))
        good, found = unpickled(ranks.pipes[0].recv_bytes())
        assert good, found
        text, seconds, same = found
        assert text.startswith("rank 0 could not meet the others to work out a loss") and seconds < 20 and same
    finally:
        ranks.close()


def directions():
    with pytest.raises(HybridOptError) as error:
        probed(sharded(Loss()), {"policy": "mezo", "samples": distributed.get_rank() + 1})
    return str(error.value)


def test_ranks_of_other_directions_are_told_before_the_first_loss(two):
    first, second = two.run(directions)
    assert first == second
    with pytest.raises(HybridOptError, match="treatment of .*samples.*1.* on rank 0 and .*samples.*2.* on rank 1"):
        raise HybridOptError(first)


def nan():
    model = sharded(Loss())
    optimizer, rank = probed(model, {"policy": "mezo"}, 1), distributed.get_rank()
    before = weights(model)
    with pytest.raises(HybridOptError) as error:
        optimizer.step(lambda: model(batch(1)) * (float("nan") if rank else 1))
    same = all(x.equal(before[n]) for n, x in weights(model).items())
    probed(model, {}, 1, 1, optimizer)
    return str(error.value), same


def test_a_loss_that_is_no_number_is_told_with_its_rank(two):
    for text, same in two.run(nan):
        assert "not finite at step 1 (direction 1 of 1) on rank 1 of 2; nothing was changed" in text and same


def pickled(x):
    import pickle

    return pickle.dumps(x)


def unpickled(x):
    import pickle

    return pickle.loads(x)


def some_ranks():
    """Rank 0 trains on a mesh of two dimensions, and rank 1 is no part of it."""
    from torch.distributed.device_mesh import DeviceMesh

    mesh = DeviceMesh("cpu", [[0]], mesh_dim_names=("replicas", "shards"))
    if distributed.get_rank() == 0:
        trained(sharded(Odd(), mesh=mesh), {"policy": "adafactor"}, 1)


def replicas(seeds):
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))
    with pytest.raises(HybridOptError) as error:
        trained(sharded(Odd(), mesh=mesh), {"seed": seeds[distributed.get_rank()]}, 1)
    return str(error.value)


def test_ranks_of_other_meshes_are_not_waited_for(two):
    two.run(some_ranks)


def test_replicas_that_disagree_are_told(two):
    for text in two.run(replicas, (3, 4)):
        assert "seed of parameter 'embed.weight' is 3 on rank 0 and 4 on rank 1" in text


def other_layouts():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    model = fully_shard(Odd(), shard_placement_fn=lambda p: Shard(1) if p.ndim == 2 and p.shape[1] % 2 == 0 else None)
    with pytest.raises(HybridOptError, match=r"'embed.weight'.*is sharded as.*only shards along dimension 0"):
        HybridOptimizer(model.named_parameters(), 0.05)
    with pytest.raises(HybridOptError, match=r"'embed.weight'.*by probes of a sharded model.*module=model"):
        HybridOptimizer(sharded(Odd()).named_parameters(), 0.05, policy="mezo")
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicas", "shards"))
    model = sharded(Odd(), mesh=mesh)
    trained(model, {"policy": "adafactor"}, 2)
    return weights(model)


def test_other_layouts_are_refused_and_replicas_of_shards_are_not(two):
    expected = Odd()
    trained(expected, {"policy": "adafactor"}, 2)
    for found in two.run(other_layouts):
        for n, x in weights(expected).items():
            torch.testing.assert_close(found[n], x, rtol=1e-5, atol=1e-6)
