"""Small trainings on given gradients, worked out in several ways."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...optimizer.optimizer import HybridOptimizer
from .inputs import noise

__all__ = ["SHAPES", "STEPS", "Training", "count_positive", "parameters"]

SHAPES = {  # one that is compiled or has a kernel, and some small ones, which are stacked
    "layers.0.mlp.weight": (256, 1024),
    "layers.1.mlp.weight": (64, 64),
    "layers.2.mlp.weight": (64, 64),
}
STEPS = 3


@dataclass(frozen=True)
class Training:
    """Some steps of a policy.

    Args:
        policy: its name.
        dtype: of the weights.
        release: of the optimizer.
        options: of the policy.
    """

    policy: str
    dtype: torch.dtype = torch.float32
    release: str = "accumulate"
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, device: torch.device, compile: bool) -> dict[str, Tensor]:
        """Train on a device; return the weights."""
        params = parameters(device, self.dtype)
        made: dict[str, Any] = {"lr": 1e-2, "policy": self.policy, "release": self.release, "compile": compile}
        optimizer = HybridOptimizer(params.items(), **made, **self.options)
        for step in range(STEPS):
            torch.stack([self._loss(name, p, step) for name, p in params.items()]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return dict(params)

    def _loss(self, name: str, p: Tensor, step: int) -> Tensor:
        """Return a number whose gradient is noise, to the bit."""
        return (p * noise(f"{name}, gradient", tuple(p.shape), step).to(p)).sum()


def parameters(device: torch.device, dtype: torch.dtype) -> dict[str, nn.Parameter]:
    """Make parameters of the given shapes, normally distributed."""
    return {name: nn.Parameter(noise(name, shape).to(device, dtype)) for name, shape in SHAPES.items()}


def count_positive(params: Iterable[Tensor]) -> float:
    """Return a loss of which every device has the same bits: how many weights are positive, in thousands."""
    return sum(int((p > 0).sum()) for p in params) / 1000
