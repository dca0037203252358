"""AdaLomo on float32 weights, updated within the backward pass: sums may be added in another order."""

from collections.abc import Iterator

import torch

from ..compare import Bound, compared, in_all_ways
from ..examine import Check
from ..finding import Finding
from ..machine import Machine
from ..training import STEPS, Training

__all__ = ["CHECK"]

TRAINING = Training("adalomo", torch.float32, "fused")
BOUND = Bound(64 * STEPS * torch.finfo(torch.float32).eps)  # of a backend, for every step


def _adalomo(machine: Machine) -> Iterator[Finding]:
    yield compared("adalomo", *in_all_ways(machine, TRAINING), BOUND)


CHECK = Check("adalomo", "self-test", 4, _adalomo, compiles=True)
