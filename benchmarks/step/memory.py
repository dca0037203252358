"""Whether a host has the memory for a row: a step that runs out of it on a CPU ends the whole process."""

from math import prod
from pathlib import Path

import torch

from hybridopt.core.host_memory import left

from ..shared.markdown import human
from .measure import COPY_BYTES
from .sets import Model

ROW = 12  # bytes a parameter: two float32 moments, and once as much as one of them for temporaries
ROOT = Path("/")


def shared_bytes(model: Model, dtype: torch.dtype) -> int:
    """Return the bytes of what all rows share: weights, gradients, both moments of fused AdamW, buffers to copy."""
    numel = numel_of(model)
    return 4 * dtype.itemsize * numel + 2 * min(COPY_BYTES["cpu"], 16 * numel)


def row_bytes(model: Model) -> int:
    """Return the most bytes that a row takes beside it."""
    return ROW * numel_of(model)


def numel_of(model: Model) -> int:
    """Return the number of parameters."""
    return sum(prod(shape) for shape in model.shapes.values())


def lacking(needed: int, device: str) -> str | None:
    """Return why there is too little memory for some bytes; None where there is enough, or it cannot be told.

    A CUDA device says itself when it runs out, and the next row goes on.
    """
    free = left(ROOT) if device == "cpu" else None
    if free is None or free >= needed:
        return None
    return f"needs {human(needed)} of memory, {human(free)} are free"
