"""Printed kernels in Triton's interpreter against the eager update on the CPU: bits, and where sums are added, sizes.

A program, as the interpreter is chosen when triton is imported.
"""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from hybridopt import HybridOptimizer, HybridOptWarning
from hybridopt.execution import dispatch
from hybridopt.execution.backends import _compiled_kernels
from hybridopt.execution.backends.triton import Triton
from hybridopt.execution.backends.triton_rounds import TritonRounds

from ..shared.triton_interpreter import mended

__all__ = ["COMPARED", "compared"]

SHAPE, STEPS = (40, 2048), 2
COMPARED: dict[str, dict[str, Any]] = {
    "frugal": {},
    "frugal, lion": {"full": "lion"},
    "frugal, no free part": {"free": "no_update"},
    "frugal, int8": {"codec": "int8"},
    "frugal, lion, int8": {"full": "lion", "codec": "int8"},
    "frugal, to nearest": {"store": "dense"},
    "adalomo": {"policy": "adalomo", "density": None},
    "came": {"policy": "came", "density": None},
    "adam_mini, int8": {"policy": "adam_mini", "density": None, "codec": "int8"},
}


def compared(options: dict[str, Any]) -> dict[str, list[float]]:
    """Return, by name of what is compared, how many numbers differ after some steps, of how many, and by how much.

    That is the largest difference, relative to the largest number; steps of bfloat16 and of codes are taken off.
    """
    kernel = _trained(options, by_kernel=True)
    eager = _trained(options, by_kernel=False)
    return {name: [int((kernel[name] != x).sum()), x.numel(), _off(kernel[name], x)] for name, x in eager.items()}


def _off(x: Tensor, wanted: Tensor) -> float:
    step = torch.tensor(0.0 if wanted.dtype == torch.float32 else 1.0, dtype=torch.float64)
    if wanted.dtype.is_floating_point:
        step = step * torch.finfo(wanted.dtype).eps * wanted.abs().double()
    off = ((x.double() - wanted.double()).abs() - step).clamp(min=0).max()
    return float(off / wanted.abs().double().max().clamp(min=torch.finfo(torch.float32).tiny))


def _trained(options: dict[str, Any], by_kernel: bool) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    p = nn.Parameter((torch.randn(SHAPE, generator=random) * 0.02).bfloat16())
    told = {"lr": 1e-3, "weight_decay": 0.1, "policy": "frugal", "density": 0.25, **options}
    with _interpreted() if by_kernel else ExitStack():
        told = {name: x for name, x in told.items() if x is not None}
        optimizer = HybridOptimizer([("model.layers.0.mlp.up_proj.weight", p)], compile=by_kernel, **told)
        for _ in range(STEPS):
            p.grad = (torch.randn(SHAPE, generator=random) * 0.01).bfloat16()
            optimizer.step()
    return {"weight": p.detach()} | {k: x for k, x in optimizer.state[p].items() if isinstance(x, Tensor)}


@contextmanager
def _interpreted() -> Iterator[None]:
    """Let the kernel be chosen on the CPU, and be interpreted; a fused multiplication is rounded once, as on a GPU."""
    import numpy as np
    from triton.runtime import interpreter

    def fma(_, x, y, z):
        exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
        return interpreter.TensorHandle(exact.astype(np.float32), z.dtype.scalar)

    with (
        mended(),
        patch.object(dispatch, "able", lambda compile, device: (Triton(), TritonRounds())),
        patch.object(_compiled_kernels, "on_host", lambda device: False),
        patch.object(interpreter.InterpreterBuilder, "create_fma", fma),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", HybridOptWarning)  # of a kernel that cannot be made
        yield


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1"
    print(json.dumps(compared(COMPARED[sys.argv[1]])))
