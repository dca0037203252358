"""The step of the package flashoptim by its own kernel, which Triton's interpreter carries out on a CPU.

The package refuses to work without a CUDA device. Triton chooses its interpreter when it is imported with
TRITON_INTERPRET=1, so `missing` is asked first. Four things that the interpreter lacks or does otherwise than a GPU
are put in its place: it cuts float32 to bfloat16 instead of rounding, computes with numbers given to a kernel in
float64, has no functions of libdevice, and cannot count with numpy from 2.4 on. Tried with flashoptim 0.1.4 and
triton 3.6.0.
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
    from triton.runtime import interpreter

    plain, convert = interpreter._patch_lang_tensor, interpreter._implicit_cvt

    def countable(tensor, scope):
        plain(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))

    def given(argument):
        return single(argument) if isinstance(argument, float) else convert(argument)

    with (
        patch.object(interpreter, "_implicit_cvt", given),
        patch.object(interpreter, "_patch_lang_tensor", countable),
        patch.object(interpreter, "_convert_float", converted),
        patch.object(optimizers, "libdevice", SimpleNamespace(pow=power, copysign=copysign)),
        patch.object(optimizers, "_get_sm_count", lambda device=None: 1),
        np.errstate(all="ignore"),
    ):
        yield


def converted(data: np.ndarray, given, wanted, rounding_mode) -> np.ndarray:
    """Return float32 as bfloat16 rounded to nearest, or bfloat16 as float32; the interpreter's place for that.

    Args:
        data: float32, or the bits of bfloat16.
        given: Triton's dtype of it.
        wanted: Triton's dtype of the result, the other one.
        rounding_mode: not read.
    """
    shape = data.shape
    if (str(given), str(wanted)) == ("fp32", "bf16"):
        return (
            torch.from_numpy(data.astype(np.float32).ravel())
            .bfloat16()
            .view(torch.int16)
            .numpy()
            .view(np.uint16)
            .reshape(shape)
        )
    if (str(given), str(wanted)) == ("bf16", "fp32"):
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise NotImplementedError(f"{given} to {wanted}")


def single(number: float):
    """Return a number as Triton's float32."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    return tl.core.tensor(TensorHandle(np.array([number], dtype=np.float32), tl.float32), tl.float32)


def power(base, exponent):
    """Return a power of Triton's numbers in float32, rounded once."""
    return single(float(base.handle.data[0]) ** int(exponent.handle.data[0]))


def copysign(size, sign):
    """Return numbers with the signs of others."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    return tl.core.tensor(TensorHandle(np.copysign(size.handle.data, sign.handle.data), size.handle.dtype), size.type)
