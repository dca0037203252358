"""The Triton kernels that the project prints for an update, compiled by ptxas for sm_90, not run. A program."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hybridopt import HybridOptimizer
from hybridopt.execution import dispatch
from hybridopt.execution.backends import _triton_kernels, triton, triton_rounds
from hybridopt.execution.backends._triton_kernels import KernelLaunch

from .machine_code import printed
from .stand_ins import without_memory

__all__ = ["OWN", "made"]

NAME, SHAPE = "model.layers.0.mlp.up_proj.weight", (14336, 4096)
OWN: dict[str, dict[str, Any]] = {
    "frugal": {"policy": "frugal", "density": 0.25},
    "frugal, int8": {"policy": "frugal", "density": 0.25, "codec": "int8"},
    "adalomo": {"policy": "adalomo"},
    "adafactor": {"policy": "adafactor"},
    "adafactor, momentum": {"policy": "adafactor", "beta1": 0.9},
    "came": {"policy": "came"},
    "came, int8": {"policy": "came", "codec": "int8"},
    "adam_mini": {"policy": "adam_mini"},
    "adam_mini, int8": {"policy": "adam_mini", "codec": "int8"},
    "sinkgd": {"policy": "sinkgd"},
    "scale": {"policy": "scale"},
}


def made(options: dict[str, Any]) -> list[dict]:
    """Return the kernels of the first update of one matrix of Llama-3-8B, in order: programs, and machine code."""
    launches: list[dict] = []

    def kept(some: Sequence[KernelLaunch], given: tuple) -> None:
        launches[:] = [_looked_at(one, given) for one in some]

    with without_memory(), FakeTensorMode(allow_non_fake_inputs=True), ExitStack() as stack:
        stack.enter_context(patch.object(_triton_kernels, "call", kept))
        stack.enter_context(patch.object(dispatch, "able", lambda compile, device: BACKENDS))
        p = nn.Parameter(torch.empty(SHAPE, dtype=torch.bfloat16, device="cuda"))
        optimizer = HybridOptimizer([(NAME, p)], lr=1e-3, nonfinite="ignore", **options)
        p.grad = torch.empty(SHAPE, dtype=torch.bfloat16, device="cuda")
        optimizer.step()
    return launches


BACKENDS = triton.Triton(), triton_rounds.TritonRounds()


def _looked_at(one: KernelLaunch, given: tuple) -> dict:
    options = {name: x for name, x in one.constants.items() if name not in one.kernel.arg_names}
    constants = {name: x for name, x in one.constants.items() if name in one.kernel.arg_names}
    code = printed(one.kernel, given, constants, options | {"enable_fp_fusion": False})
    return {"name": one.kernel.__name__, "programs": one.programs, **asdict(code)}


if __name__ == "__main__":
    print(json.dumps(made(OWN[sys.argv[1]])))
