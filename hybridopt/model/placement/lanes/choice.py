"""Which way bytes take to a device."""

import torch

from .cuda import CudaLane
from .host import HostLane
from .lane import Lane

__all__ = ["lane_to"]


def lane_to(device: torch.device) -> Lane:
    """Return the lane to a GPU, or one within the host for the CPU, which stands in for a GPU in tests."""
    return CudaLane(device) if device.type == "cuda" else HostLane()
