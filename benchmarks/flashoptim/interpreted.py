"""The step of the package flashoptim by its own kernel, which Triton's interpreter carries out on a CPU.

The package refuses to work without a CUDA device. Triton chooses its interpreter when it is imported with
TRITON_INTERPRET=1, so `missing` is asked first. What it does otherwise than a GPU is mended, and functions
of libdevice, which it lacks, are put in its place. Tried with flashoptim 0.1.4 and triton 3.6.0.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from ..shared import triton_interpreter
from ..shared.triton_interpreter import single
from .formulas import State

NEEDED = ("triton", "flashoptim")


def missing() -> list[str]:
    """Return what is not there: packages, or the variable by which Triton interprets."""
    packages = [name for name in NEEDED if find_spec(name) is None]
    return packages + ([] if os.environ.get("TRITON_INTERPRET") == "1" else ["TRITON_INTERPRET=1"])


def refusal() -> str:
    """Return what the package says when its AdamW is made for a parameter on this machine; "" if it is made."""
    from flashoptim import FlashAdamW

    try:
        FlashAdamW([torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))], lr=1e-3)
    except NotImplementedError as error:
        return str(error)
    return ""


def step(state: State, grad: Tensor, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
    """Take one step of AdamW without decay, as `formulas.step` does.

    Args:
        state: is changed.
        grad: bfloat16, in the shape of the parameter.
        lr: learning rate.
        betas: of both moments.
        eps: added to the root.
    """
    from flashoptim import optimizers

    state.step += 1
    kept = (state.mom, state.mom_scales, state.var, state.var_scales, state.param)
    with mended(optimizers):
        optimizers._fused_adam_step(*kept, grad, state.errors, lr, *betas, eps, 0.0, True, state.step)


@contextmanager
def mended(optimizers) -> Iterator[None]:
    """Let the interpreter do what a GPU would."""
    with (
        triton_interpreter.mended(),
        patch.object(optimizers, "libdevice", SimpleNamespace(pow=power, copysign=copysign)),
        patch.object(optimizers, "_get_sm_count", lambda device=None: 1),
    ):
        yield


def power(base, exponent):
    """Return a power of Triton's numbers in float32, rounded once."""
    return single(float(base.handle.data[0]) ** int(exponent.handle.data[0]))


def copysign(size, sign):
    """Return numbers with the signs of others."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    return tl.core.tensor(TensorHandle(np.copysign(size.handle.data, sign.handle.data), size.handle.dtype), size.type)
