"""Triton's interpreter (TRITON_INTERPRET=1 before triton is imported) made to do what a GPU would; tried with 3.6.0.

It cuts float32 to bfloat16 instead of rounding, computes with numbers given to a kernel in float64, and cannot count
with numpy from 2.4 on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

__all__ = ["mended", "single"]


@contextmanager
def mended() -> Iterator[None]:
    """Let kernels that are launched within this context be interpreted as a GPU would carry them out."""
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
        patch.object(interpreter, "_convert_float", _converted),
        np.errstate(all="ignore"),
    ):
        yield


def single(number: float) -> Any:
    """Return a number as Triton's float32."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    return tl.core.tensor(TensorHandle(np.array([number], dtype=np.float32), tl.float32), tl.float32)


def _converted(data: np.ndarray, given, wanted, rounding_mode) -> np.ndarray:
    """Return float32 as bfloat16 rounded to nearest, or bfloat16 as float32; the interpreter's place for that.

    Args:
        data: float32, or the bits of bfloat16.
        given: Triton's dtype of it.
        wanted: Triton's dtype of the result, the other one.
        rounding_mode: not read.
    """
    if (str(given), str(wanted)) == ("fp32", "bf16"):
        bits = torch.from_numpy(data.astype(np.float32).ravel()).bfloat16().view(torch.int16)
        return bits.numpy().view(np.uint16).reshape(data.shape)
    if (str(given), str(wanted)) == ("bf16", "fp32"):
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise NotImplementedError(f"{given} to {wanted}")
