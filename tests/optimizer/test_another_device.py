"""Steps of parameters that are not on the CPU make nothing there but single numbers, and never mix devices.

The other device is `meta`, whose tensors have no values: whatever mixes it with the CPU raises.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hybridopt import HybridOptimizer

SHAPES = {"0.w": (64, 64), "1.w": (64, 64), "2.w": (4096, 8), "3.w": (3, 16, 24), "4.w": (24,), "5.w": (1, 5)}
RUNS = {
    "apollo": {"policy": "apollo"},
    "apollo, one direction each": {"policy": "apollo", "rank": 1},
    "apollo_mini": {"policy": "apollo_mini"},
    "frugal, sinkhorn": {"policy": "frugal", "split": "random", "free": "sinkhorn"},
    "frugal, whiten": {"policy": "frugal", "split": "random", "free": "whiten"},
    "galore": {"policy": "galore"},
    "galore, all at once": {"policy": "galore", "spread": False},
    "qgalore": {"policy": "qgalore", "threshold": None},  # a threshold is compared on the host
    "frugal, random": {"policy": "frugal", "split": "random"},
    "frugal, svd": {"policy": "frugal", "split": "svd"},
}
MOST = 2  # numbers for each parameter of a stack


class Elsewhere(TorchDispatchMode):
    """Collects the operations that make tensors of more than a few numbers on the CPU."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else [out]
        large = [x for x in made if isinstance(x, torch.Tensor) and x.device.type == "cpu" and x.numel() > MOST]
        self.found |= {(str(func), tuple(x.shape)) for x in large}
        return out


@pytest.mark.parametrize("name", RUNS)
def test_all_is_made_where_the_parameters_are(name):
    params = {n: torch.nn.Parameter(torch.empty(shape, device="meta")) for n, shape in SHAPES.items()}
    options = {"lr": 1e-3, "compile": False, "nonfinite": "ignore", "update_gap": 2}
    optimizer, elsewhere = HybridOptimizer(params.items(), **options, **RUNS[name]), Elsewhere()
    for _ in range(5):
        for p in params.values():
            p.grad = torch.empty_like(p)
        with elsewhere:
            optimizer.step()
    state = [x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    assert state and {x.device.type for x in state} == {"meta"}
    assert not elsewhere.found
