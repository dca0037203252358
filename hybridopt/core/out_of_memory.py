"""Short memory, which looks like a damaged file to who only sees that something cannot be read."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import HybridOptError

__all__ = ["enough_memory", "out_of_memory"]

# What allocators, mmap and the system say; torch and safetensors raise RuntimeError and OSError of their own.
WORDS = ("out of memory", "cannot allocate memory", "can't allocate memory", "not enough memory", "bad allocation")
FEW = ("too many open files",)  # not the file's fault either


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, or another resource of the machine, was short."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return True
    return any(words in str(error).lower() for words in WORDS + FEW)


@contextmanager
def enough_memory(what: str, cure: str) -> Iterator[None]:
    """Raise HybridOptError where memory is short within.

    what: that is done, for the error. cure: what to do about it.
    """
    try:
        yield
    except HybridOptError:
        raise
    except Exception as error:  # torch, safetensors and the system raise types of their own
        if not out_of_memory(error):
            raise
        text = str(error).partition("\n")[0][:200] or type(error).__name__
        raise HybridOptError(f"{what}: memory is short ({text}); {cure}") from error
