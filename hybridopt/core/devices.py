"""Devices by the names that users write, and the memory that they have left."""

import torch

from .errors import HybridOptError, shown

__all__ = ["WITH_CUDA", "device_here", "device_named", "free_bytes"]

KINDS = ("cpu", "cuda")
WITH_CUDA = (
    "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130 (old drivers: cu126)"
)


def device_here() -> str:
    """Return "cuda" if torch finds a GPU on this machine, and "cpu" otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_named(name: str) -> torch.device:
    """Return the CPU or the GPU of a name ("cpu", "cuda", "cuda:1"), once a tensor could be made there.

    Raises:
        HybridOptError: there is no such device here.
    """
    try:
        kind = torch.device(name).type
    except RuntimeError as error:  # with a list of all devices that any torch knows
        raise _unusable(name, "that is no name of a device") from error
    if kind not in KINDS:
        raise _unusable(name, f"updates are not known to work on {kind}")
    if kind == "cuda" and torch.version.cuda is None:
        raise _unusable(name, f"torch {torch.__version__} is built without CUDA", f" and a torch for it: {WITH_CUDA}")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise _unusable(name, (str(error) or type(error).__name__).partition("\n")[0]) from error


def free_bytes(device: torch.device) -> int:
    """Return the bytes that torch could still allocate on a GPU, its own cache included."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _unusable(name: str, why: str, more: str = "") -> HybridOptError:
    cure = f"give cpu, or cuda on a machine that has it{more}"
    return HybridOptError(f"device={shown(name)} cannot be used here ({why}); {cure}")
