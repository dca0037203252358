"""What is said where training fails for want of memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...core.errors import HybridOptError
from ...core.sizes import gib
from .prepare import Prepared

__all__ = ["explained"]

BROKEN = "; nothing was changed. "  # in what an optimizer says of gradients that are not finite
LOWER = "Lower train.lr, or set train.clip"
SHORT = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def explained(prepared: Prepared) -> Iterator[None]:
    """Say in the words of run.yaml what can be done where memory is short, or a gradient is no number."""
    try:
        yield
    except HybridOptError as error:
        before, found, _ = str(error).partition(BROKEN)
        raise (HybridOptError(before + BROKEN + LOWER) if found else error) from error
    except (RuntimeError, MemoryError) as error:
        if not _is_short(error):
            raise
        planned = gib(prepared.chosen.estimate.peak_bytes)
        raise HybridOptError(
            f"memory is short, though {planned} were planned: {str(error).partition(chr(10))[0][:200]}; "
            f"{_change(prepared)}"
        ) from error


def _is_short(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in SHORT)


def _change(prepared: Prepared) -> str:
    change = prepared.less()
    return f"the least change that takes less: {change}" if change else "take a smaller model, or a larger GPU"
