"""Whether Triton makes a kernel of printed text, as hybridopt prints them for chosen columns."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ....core.numerics.compiling import reason
from ....execution.printing.defined import defined
from ..examine import Check
from ..finding import FAIL, OK, REPORT, SKIPPED, WARN, Finding
from ..machine import Machine

__all__ = ["CHECK", "TEXT", "printed_kernel"]

TEXT = '''"""A small kernel, as a trial."""

import triton
import triton.language as tl

from hybridopt.execution.printing.triton.prelude import *


@triton.jit
def kernel(x, out, count, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    mask = at < count
    tl.store(out + at, fma_(tl.load(x + at, mask=mask, other=0.0), 2.0, 1.0), mask=mask)
'''
COUNT, SIZE = 1000, 256
CURE = "pip install triton, and a C compiler (Debian: apt install gcc)"


def _printed_kernel(machine: Machine) -> Iterator[Finding]:
    if machine.cuda:
        yield printed_kernel(machine.device, _launch)
    else:
        yield Finding("printed kernel", SKIPPED, "for GPUs only")


def printed_kernel(device: torch.device, launch: Callable[[Tensor, Tensor], object]) -> Finding:
    """Return the line about the kernel.

    Args:
        device: where it is launched.
        launch: writes 2 x + 1 to its second argument, [COUNT] both.
    """
    x, out = torch.arange(float(COUNT), device=device), torch.zeros(COUNT, device=device)
    try:
        launch(x, out)
    except Exception as error:  # of Triton, or of a compiler that it calls, as in the backend
        without = "updates of columns go on without, slower, with the same results up to rounding"
        text = f"Triton makes none, so {without} ({reason(error)})"
        return Finding("printed kernel", WARN, text, CURE)
    if not out.equal(2 * x + 1):
        return Finding("printed kernel", FAIL, "Triton makes one that computes something else", REPORT)
    return Finding("printed kernel", OK, "Triton makes one of printed text")


def _launch(x: Tensor, out: Tensor) -> None:
    kernel: Any = defined(TEXT, "a trial of the doctor")["kernel"]
    with torch.cuda.device_of(x):  # Triton launches on the current device
        kernel[(-(-COUNT // SIZE),)](x, out, COUNT, SIZE=SIZE)


CHECK = Check("printed kernel", "kernels", 1, _printed_kernel)
