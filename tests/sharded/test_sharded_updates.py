"""Every way to train under FSDP2 gives what one process gives: two and three processes, gloo."""

from unittest.mock import patch

import pytest
import torch

from hybridopt.execution.backends.native import Native
from hybridopt.model.fsdp.sharded_tensors import local
from hybridopt.parts.codecs.int8 import Int8
from support.ranks import Ranks
from support.sharding import Odd, sharded, trained, weights

pytestmark = pytest.mark.slow

EXACT = {
    "adamw": {"policy": "adamw", "compile": False},
    "adamw-bf16-weights": {"policy": "adamw", "dtype": torch.bfloat16},
    "lion-bf16": {"policy": "lion", "codec": "bf16"},
    "adamw-int8": {"policy": "adamw", "codec": Int8(16, 0)},
    "adamw-int8-exact": {"policy": "adamw", "codec": Int8(16)},  # all are too small for 8 bits
    "columns": {"density": 0.5, "update_gap": 2},
    "rows": {"split": "rows", "density": 0.5, "update_gap": 2},
    "randk": {"split": "randk", "density": 0.5, "update_gap": 2},
    "block": {"split": "block", "density": 0.5, "update_gap": 2},
    "badam": {"policy": "badam", "update_gap": 2},
    "svd": {"policy": "galore", "density": 0.5, "update_gap": 2},
    "qgalore": {"policy": "qgalore", "density": 0.5, "update_gap": 2},
    "muon": {"policy": "muon"},
    "swan": {"policy": "swan"},
}
CLOSE = {
    "random": {"split": "random", "density": 0.5, "update_gap": 2},
    "adam_mini": {"policy": "adam_mini"},
    "adafactor": {"policy": "adafactor"},
    "adalomo": {"policy": "adalomo"},
    "came": {"policy": "came"},
    "apollo": {"policy": "apollo"},
    "apollo_mini": {"policy": "apollo_mini"},
    "sinkgd": {"policy": "sinkgd"},
    "scale": {"policy": "scale"},
}
MATRICES = {
    "much state": {"policy": "apollo"},
    "wide bases": {"policy": "galore", "density": 0.9, "update_gap": 2},  # of 64 directions and more
}
BOUND = 1e-5  # of the largest change: sums of columns are added up in another order


def made(options):
    options = dict(options)
    return Odd(options.pop("dtype", torch.float32)), options


def one(options, ranks=False):
    model, options = made(options)
    model = sharded(model) if ranks else model
    with patch.object(Native, "fits", lambda self, task: False):  # torch's kernels round the ends of tensors otherwise
        trained(model, options, steps=5)
    return weights(model)


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request):
    made = Ranks(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("name", EXACT)
def test_the_same_bits_as_one_process(name, ranks):
    alone = one(EXACT[name])
    for found in ranks.run(one, EXACT[name], True):
        for n, x in alone.items():
            assert x.equal(found[n]), (n, (x - found[n]).abs().max())


@pytest.mark.parametrize("name", CLOSE)
def test_the_same_but_for_the_order_of_sums(name, ranks):
    alone, before = one(CLOSE[name]), weights(Odd())
    found = ranks.run(one, CLOSE[name], True)
    for n, x in alone.items():
        assert all(x.equal(other[n]) for x, other in ((found[0][n], f) for f in found)), n
        assert (x - found[0][n]).abs().max() <= BOUND * (x - before[n]).abs().max(), n


def matrices(options, ranks):
    """Train two matrices; return weights, and the bytes of state that lie here."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(72, 80, bias=False), torch.nn.Linear(80, 72, bias=False))
    model = fully_shard(model) if ranks else model
    optimizer = trained(model, options, steps=5)
    state = [local(x) for each in optimizer.state.values() for x in each.values() if isinstance(x, torch.Tensor)]
    return weights(model), sum(x.nbytes for x in state if not x.is_meta)


@pytest.mark.parametrize("name", MATRICES)
def test_matrices_that_one_rank_updates_whole_have_the_bits_of_one_process(name, ranks):
    alone, size = matrices(MATRICES[name], False)
    found = ranks.run(matrices, MATRICES[name], True)
    assert sum(own for _, own in found) == size and sorted(own for _, own in found)[-2] > 0
    assert all(x.equal(other[n]) for other, _ in found for n, x in alone.items())
