"""MeZO on bfloat16 weights: with losses that are exact, all bits are promised."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ....optimizer.optimizer import HybridOptimizer
from ..compare import compared, in_all_ways
from ..examine import Check
from ..finding import Finding
from ..machine import Machine
from ..training import STEPS, count_positive, parameters

__all__ = ["CHECK"]

KNOWN = 0xBE5384F506569BE1


def _mezo(machine: Machine) -> Iterator[Finding]:
    yield compared("mezo", *in_all_ways(machine, _trained), known=KNOWN)


def _trained(device: torch.device, compile: bool) -> dict[str, Tensor]:
    params = parameters(device, torch.bfloat16)
    optimizer = HybridOptimizer(params.items(), lr=1e-2, policy="mezo", compile=compile)
    for _ in range(STEPS):
        optimizer.step(lambda: count_positive(params.values()))
    return dict(params)


CHECK = Check("mezo", "self-test", 6, _mezo, compiles=True)
