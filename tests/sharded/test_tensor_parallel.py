"""Layers that torch's tensor parallelism cuts by rows are trained as one process does; other cuts are refused."""

import pytest
import torch
from torch import distributed, nn

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer
from support.sharding import weights

pytestmark = pytest.mark.slow

CELLS = [("sgd", "accumulate"), ("adamw", "fused"), ("adafactor", "accumulate"), ("muon", "fused")]
STEPS = 2


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 15))


def cut(model, **plan):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import parallelize_module

    mesh = init_device_mesh("cpu", (distributed.get_world_size(),), mesh_dim_names=("tp",))
    return parallelize_module(model, mesh, {name.removeprefix("_"): how for name, how in plan.items()})


def trained(policy, release, ranks=True):
    """Each rank has a part of the sequence, so that the gradients of the norm are parts of a sum."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, SequenceParallel

    model, most = layers(), slice(None)
    if ranks:
        columns = ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())
        cut(model, _0=SequenceParallel(), _1=columns)
        most = slice(3 * distributed.get_rank(), 3 * distributed.get_rank() + 3)
    optimizer = HybridOptimizer(model.named_parameters(), 0.01, policy=policy, module=model, release=release)
    for step in range(STEPS):
        x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(step))
        (model(x[:, most].contiguous()) * torch.arange(15)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)


def all_cells():
    return [trained(*cell) for cell in CELLS]


def test_rows_and_parts_of_sums_are_trained_as_one_process_does(two):
    first, second = two.run(all_cells)
    for cell, got, other in zip(CELLS, first, second, strict=True):
        before = weights(layers())
        for n, x in trained(*cell, ranks=False).items():
            assert got[n].equal(other[n])
            assert (got[n] - x).abs().max() <= 1e-4 * (x - before[n]).abs().max(), (cell, n)


def others():
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))
    model = hybridopt.wrap(cut(model, _0=ColwiseParallel(), _1=RowwiseParallel()))
    with pytest.raises(HybridOptError) as error:
        model.hybrid.optimizer(lr=0.01)
    return str(error.value), all(p.requires_grad for p in model.parameters())


def test_columns_are_refused(two):
    for text, same in two.run(others):
        assert "'1.weight' (shape (8, 16)) is sharded as (Shard(dim=1),)" in text and same
        assert "leave these layers whole, or let ColwiseParallel cut them" in text
