"""FRUGAL as it is by default, on bfloat16 weights: AdamW on a quarter of the columns, signSGD on the others."""

from collections.abc import Iterator

import torch

from ..compare import Bound, compared, in_all_ways
from ..examine import Check
from ..finding import Finding
from ..machine import Machine
from ..training import Training

__all__ = ["CHECK"]

TRAINING = Training("frugal", torch.bfloat16, options={"density": 0.25, "split": "columns"})
# The last bit of float32 may differ (roots, fused multiplications), and then tips a few of the random roundings.
BOUND = Bound(2 * torch.finfo(torch.bfloat16).eps, 0.01)


def _frugal(machine: Machine) -> Iterator[Finding]:
    yield compared("frugal", *in_all_ways(machine, TRAINING), BOUND)


CHECK = Check("frugal", "self-test", 3, _frugal, compiles=True)
