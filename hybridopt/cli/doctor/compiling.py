"""Whether torch.compile makes kernels for a device, tried once."""

from dataclasses import dataclass
from functools import cache
from time import perf_counter

import torch
from torch import Tensor

from ...core.numerics.compiling import compiled, failures, reason

__all__ = ["Trial", "compiles", "trial"]

SIZE = 1 << 12  # elements


@dataclass(frozen=True)
class Trial:
    """How compiling a small function went.

    Args:
        seconds: that it took.
        why: it was not possible; "" if it was.
        survived: would updates go on without? Not after an error that is none of the compiler's own.
    """

    seconds: float
    why: str = ""
    survived: bool = True


@cache
def trial(device: torch.device) -> Trial:
    """Compile a small function as updates are compiled, and compare what it computes."""
    start = perf_counter()
    try:
        why, survived = _tried(device), False
    except failures() as error:
        why, survived = reason(error), True
    except Exception as error:  # such as of a launcher that is built at the first call
        why, survived = reason(error), False
    return Trial(perf_counter() - start, why, survived or not why)


def compiles(device: torch.device) -> bool:
    """Return whether torch.compile makes kernels for a device."""
    return not trial(device).why


def _tried(device: torch.device) -> str:
    x, out = torch.arange(float(SIZE), device=device), torch.empty(SIZE, device=device)
    compiled(_affine, SIZE, dynamic=False)(x, out)
    return "" if out.equal(2 * x + 1) else "a compiled function gave a wrong result"


def _affine(x: Tensor, out: Tensor) -> None:
    out.copy_(x * 2 + 1)
