"""What is said where training fails for want of memory or of disk, or where a file cannot be read or written."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote

import torch

from ...core.errors import NO_ROOM, HybridOptError
from ...core.sizes import gib
from .prepare import Prepared

__all__ = ["explained"]

BROKEN = "; nothing was changed. "  # in what an optimizer says of gradients that are not finite
LOWER = "Lower train.lr, or set train.clip"
CUT_SHORT = "inline_container.cc"  # in what torch.save says where it could not write all
OF_THE_SYSTEM = re.compile(r"\(os error (\d+)\)")  # in what safetensors says
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
        if _is_short(error):
            raise _short(prepared, error) from error
        if (number := _failed(error)) is not None:
            raise _unwritten(prepared, error, number) from error
        raise


def _failed(error: BaseException) -> int | None:
    """Return the number of what the system could not do with a file; None where it is something else."""
    if isinstance(error, OSError):
        return error.errno
    found = OF_THE_SYSTEM.search(str(error))
    return int(found[1]) if found else errno.ENOSPC if CUT_SHORT in str(error) else None


def _unwritten(prepared: Prepared, error: BaseException, number: int) -> HybridOptError:
    place = prepared.place
    again = f"go on by: hybridopt train {quote(str(place.run))} --resume" if place.saved else "start again"
    why = "the disk is full" if number in NO_ROOM else f"the system says: {os.strerror(number)}"
    cure = (
        "make room, or keep fewer checkpoints (train.keep, train.save_every)" if number in NO_ROOM else "see to that"
    )
    named = error.filename if isinstance(error, OSError) else None
    where = f"{place.folder} could not be written to" if named is None else f"{named} could not be read or written"
    return HybridOptError(f"{where}, as {why} ({type(error).__name__}: {str(error)[:100]}); {cure}, and {again}")


def _is_short(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in SHORT)


def _short(prepared: Prepared, error: BaseException) -> HybridOptError:
    planned = gib(prepared.chosen.estimate.peak_bytes)
    return HybridOptError(
        f"memory is short, though {planned} were planned: {str(error).partition(chr(10))[0][:200]}; "
        f"{_change(prepared)}"
    )


def _change(prepared: Prepared) -> str:
    change = prepared.less()
    return f"the least change that takes less: {change}" if change else "take a smaller model, or a larger GPU"
