"""signSGD on bfloat16 weights that are rounded at random: every bit is promised."""

from collections.abc import Iterator

import torch

from ..compare import compared, in_all_ways
from ..examine import Check
from ..finding import Finding
from ..machine import Machine
from ..training import Training

__all__ = ["CHECK"]

TRAINING = Training("signsgd", torch.bfloat16)
KNOWN = 0xBB492015CED17DDB


def _signsgd(machine: Machine) -> Iterator[Finding]:
    yield compared("signsgd", *in_all_ways(machine, TRAINING), known=KNOWN)


CHECK = Check("signsgd", "self-test", 2, _signsgd, compiles=True)
