"""Devices by the names that users write, and the memory that they have left."""

import torch

from .errors import HybridOptError, shown

__all__ = ["device_here", "device_named", "free_bytes"]

KINDS = ("cpu", "cuda")


def device_here() -> str:
    """Return "cuda" if torch finds a GPU on this machine, and "cpu" otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_named(name: str) -> torch.device:
    """Return the CPU or the GPU of a name ("cpu", "cuda", "cuda:1"), once a tensor could be made there.

    Raises:
        HybridOptError: there is no such device here.
    """
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise _unusable(name, (str(error) or type(error).__name__).partition("\n")[0]) from error
    if device.type not in KINDS:
        raise _unusable(name, f"updates are not known to work on {device.type}")
    return device


def free_bytes(device: torch.device) -> int:
    """Return the bytes that torch could still allocate on a GPU, its own cache included."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _unusable(name: str, why: str) -> HybridOptError:
    cure = "give cpu, or cuda on a machine that has it"
    return HybridOptError(f"device={shown(name)} cannot be used here ({why}); {cure}")
