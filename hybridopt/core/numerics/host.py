"""Numbers on their way from the host to a device, which nothing waits for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["on_host", "put", "send_"]


def on_host(device: torch.device) -> bool:
    """Return whether a device computes at once, as the CPU does, while others are told and run behind."""
    return device.type == "cpu"


def put(numbers: Sequence[Any] | float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make a tensor of numbers on a device, sent from pinned memory, so that the host does not wait.

    Args:
        numbers: as `torch.tensor` takes them.
        dtype: of the tensor.
        device: where it is used.
    """
    x = torch.tensor(numbers, dtype=dtype, device="cpu")
    return x if on_host(device) else _pinned(x).to(device, non_blocking=True)


def send_(out: Tensor, x: Tensor) -> None:
    """Copy a tensor of the host into one of any device, from pinned memory, so that the host does not wait.

    Args:
        out: written in place.
        x: on the host, in the shape of `out`.
    """
    if on_host(out.device):
        out.copy_(x)
    else:
        out.copy_(_pinned(x), non_blocking=True)


def _pinned(x: Tensor) -> Tensor:
    return x.pin_memory() if torch.cuda.is_available() else x
