"""The memory and the device that a run is planned for."""

from pathlib import Path

import torch

from ...core.budget import Budget, budget
from ...core.errors import HybridOptError
from ...core.host_memory import left
from ..config.run import AUTO, Run

__all__ = ["room_of"]

CUDA, CPU = "cuda", "cpu"


def room_of(run: Run) -> tuple[Budget, str, list[str]]:
    """Return the memory of a run, the kind of device whose kernels count, and lines for people.

    A GPU that is named is planned for, whether it is here or not; "auto" is the first GPU of this machine, or without
    one what this machine has free, where training takes place then.

    Raises:
        HybridOptError: the GPU is not known, or this system does not tell what is free.
    """
    here = torch.cuda.is_available()
    if run.gpu != AUTO or here:
        room = budget(run.gpu, run.margin, "gpu")
        told = f"planned for {room.card or run.gpu}; training would take place on the CPU here, as torch finds no GPU"
        return room, CUDA, [] if here else [told]
    free = left(Path("/"))
    if free is None:
        raise HybridOptError("gpu='auto': this system does not tell how much memory is free; give a size: --gpu 16GiB")
    whole = budget(free, run.margin)
    return Budget(whole.total, whole.kept, "this machine's free memory"), CPU, []
