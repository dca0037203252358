"""What is said where training fails for want of memory or of disk."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote

import torch

from ...core.errors import HybridOptError
from ...core.sizes import gib
from .prepare import Prepared

__all__ = ["explained"]

BROKEN = "; nothing was changed. "  # in what an optimizer says of gradients that are not finite
LOWER = "Lower train.lr, or set train.clip"
FULL = ("no space left on device", "disk quota exceeded", "inline_container.cc")  # the last: torch.save, cut short
SHORT = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def explained(prepared: Prepared) -> Iterator[None]:
    """Say in the words of run.yaml what can be done where memory is short, or a gradient is no number."""
    try:
        yield
    except HybridOptError as error:
        before, found, _ = str(error).partition(BROKEN)
        raise (HybridOptError(before + BROKEN + LOWER) if found else error) from error
    except Exception as error:  # of torch, of safetensors, of the system
        if _is_full(error):
            raise _full(prepared, error) from error
        if not _is_short(error):
            raise
        planned = gib(prepared.chosen.estimate.peak_bytes)
        raise HybridOptError(
            f"memory is short, though {planned} were planned: {str(error).partition(chr(10))[0][:200]}; "
            f"{_change(prepared)}"
        ) from error


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error).lower() for words in FULL)


def _full(prepared: Prepared, error: BaseException) -> HybridOptError:
    place = prepared.place
    again = f"go on by: hybridopt train {quote(str(place.run))} --resume" if place.saved else "start again"
    return HybridOptError(
        f"{place.folder} could not be written to, as the disk is full ({type(error).__name__}: {str(error)[:100]}); "
        f"make room, or keep fewer checkpoints (train.keep, train.save_every), and {again}"
    )


def _is_short(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in SHORT)


def _change(prepared: Prepared) -> str:
    change = prepared.less()
    return f"the least change that takes less: {change}" if change else "take a smaller model, or a larger GPU"
