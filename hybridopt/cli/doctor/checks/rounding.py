"""Rounding to bfloat16 at random: the same bits from every device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ....core.numerics.rounding import stochastic_bf16
from ..compare import compared, in_all_ways
from ..examine import Check
from ..finding import Finding
from ..inputs import noise
from ..machine import Machine

__all__ = ["CHECK"]

SHAPE = (512, 256)
SPECIAL = (0.0, -0.0, float("inf"), -float("inf"), 1.0, -1.0, 1.00390625)
POWERS = 80  # of two, around 1; beyond 1e30 devices may round otherwise
KEY = 2**61 + 5
KNOWN = 0xE8A329CD75BF8198


def _rounding(machine: Machine) -> Iterator[Finding]:
    eager = {way: told for way, told in machine.ways.items() if not told[1]}
    yield compared("rounding", *in_all_ways(machine, _rounded, eager), known=KNOWN)


def _rounded(device: torch.device, compile: bool) -> dict[str, Tensor]:
    return {"x": stochastic_bf16(_numbers().to(device), KEY)}


def _numbers() -> Tensor:
    """Return numbers of many magnitudes, and some special ones: float32 [512, 256]."""
    powers = torch.arange(SHAPE[0]) % POWERS - POWERS // 2
    x = torch.ldexp(noise("rounding", SHAPE), powers[:, None])
    x[0, : len(SPECIAL)] = torch.tensor(SPECIAL)
    return x


CHECK = Check("rounding", "self-test", 1, _rounding)
