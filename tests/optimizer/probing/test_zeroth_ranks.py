"""Zeroth-order training on several ranks: two processes, gloo, that exchange losses only."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer
from support.probing import data, loss_of, net, weights

pytestmark = pytest.mark.slow

RANKS, STEPS, POLICIES = 2, 3, ("mezo", "fzoo", "zo_conservative")
WHOLE = data(rows=8)


def train(policy, batch):
    model = hybridopt.wrap(net(), policy=policy)
    optimizer = model.hybrid.optimizer(lr=1e-2)
    for _ in range(STEPS):
        optimizer.step(lambda: loss_of(model, batch))
    return weights(model)


def process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    try:
        found = {policy: train(policy, tuple(x[rank::RANKS] for x in WHOLE)) for policy in POLICIES}
        torch.save(found, Path(folder) / f"{rank}.pt")
        check_shards()
    finally:
        distributed.destroy_process_group()


def check_shards():
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(net())
    with pytest.raises(HybridOptError, match="is sharded.*only losses are exchanged"):
        HybridOptimizer(model.named_parameters(), policy="mezo")


def test_replicas_stay_the_same_and_train_as_one_process_on_everything():
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(process, (folder,), RANKS)
        one, other = (torch.load(Path(folder) / f"{rank}.pt") for rank in range(RANKS))
    for policy in POLICIES:
        alone = train(policy, WHOLE)
        start = weights(net())
        for name, p in one[policy].items():
            assert p.equal(other[policy][name]), (policy, name)
            assert not p.equal(start[name])
            if policy != "fzoo":  # the spread of mean losses is that of the whole batch, to rounding
                torch.testing.assert_close(p, alone[name], rtol=1e-3, atol=1e-5)
