"""Count one step of an optimizer over parameters of given shapes."""

from functools import cache

import torch
from torch import Tensor, nn

from hybridopt import HybridOptimizer

from .fake_cuda import Counts, FakeCuda
from .rows import Row
from .stand_ins import stand_ins

__all__ = ["counts"]

STEPS = 3  # the last one is counted: then all state is there, and every number has been sent once
KINDS = ("compiled", "launches", "waits", "copies", "sent", "midway")


class Holder(nn.Module):
    """A module that uses its weight."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        """Return a number of the weight, without reading all of it."""
        return self.weight.view(-1)[0]


class Held(nn.ModuleDict):
    """Modules that each use their weight."""

    def forward(self) -> Tensor:
        """Return the sum of their numbers."""
        return torch.stack([module() for module in self.values()]).float().sum()


def counts(row: Row, shapes: dict[str, tuple[int, ...]]) -> Counts:
    """Count the third step of an optimizer over bfloat16 parameters.

    Args:
        row: how it trains.
        shapes: of the parameters, by name.
    """
    mode = _mode()
    with stand_ins(mode), mode:
        weights = {n: nn.Parameter(torch.empty(s, dtype=torch.bfloat16, device="cuda")) for n, s in shapes.items()}
        model = Held({name.replace(".", "-"): Holder(weight) for name, weight in weights.items()})
        optimizer = HybridOptimizer(
            weights.items(), lr=1e-3, policy=row.policy, release=row.release, module=model, **row.options
        )
        for _ in range(STEPS):
            with mode.counted() as found:
                _step(optimizer, weights, model, found)
            optimizer.zero_grad()
    return found


@cache
def _mode() -> FakeCuda:
    """Return the one mode of this process: kernels and numbers of earlier rows are used again, as on a device."""
    return FakeCuda()


def _step(optimizer: HybridOptimizer, weights: dict[str, nn.Parameter], model: Held, found: Counts) -> None:
    if any(optimizer._tags.treatment(group).probed for group in optimizer.param_groups):
        optimizer.probe(model)
    for name, weight in reversed(weights.items()):
        weight.grad = torch.empty_like(weight)
        if optimizer.release != "accumulate":
            before = _stops(found)
            optimizer.gradient_ready(name, weight)
            found.of["midway"] += _stops(found) - before
    optimizer.step()


def _stops(found: Counts) -> int:
    return found.of["waits"] + found.of["copies"]
