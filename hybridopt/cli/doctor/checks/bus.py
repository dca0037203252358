"""How fast the bus between host and GPU is, from pinned memory and from memory that may be paged out."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ....core.devices import free_bytes
from ....core.sizes import GIB
from ..examine import Check
from ..finding import OK, SKIPPED, WARN, Finding
from ..machine import CPU, Machine
from ..timing import best, speed

__all__ = ["CHECK", "judged", "measured"]

SIZE, PARTS = GIB // 4, 8  # bytes, and as much of the free memory at most
SLOW = 6e9  # bytes a second of pinned memory: below half of what 16 lanes of PCIe 3 reach


def _bus(machine: Machine) -> Iterator[Finding]:
    if not machine.cuda:
        yield Finding("bus", SKIPPED, "a CPU has its memory at hand")
        return
    size = min(SIZE, free_bytes(machine.device) // PARTS)
    for pinned in (True, False):
        yield judged(measured(torch.zeros(size, dtype=torch.uint8, pin_memory=pinned), machine.device), pinned)


def measured(host: Tensor, device: torch.device) -> tuple[float, float]:
    """Return the bytes a second from the host to a device, and back.

    Args:
        host: memory on the host, pinned or not.
        device: where the other copy lies.
    """
    assert host.device == CPU
    there = host.to(device, copy=True)
    to = best(lambda: there.copy_(host, non_blocking=True), device)
    back = best(lambda: host.copy_(there, non_blocking=True), device)
    return host.nbytes / to, host.nbytes / back


def judged(speeds: tuple[float, float], pinned: bool) -> Finding:
    """Return the line about the bus; speeds: bytes a second to the device and back."""
    name = f"bus, {'pinned' if pinned else 'pageable'} memory"
    text = f"{speed(speeds[0])} to the GPU, {speed(speeds[1])} back"
    numbers = {"to_device_bytes_per_second": speeds[0], "to_host_bytes_per_second": speeds[1]}
    noted = {"bus": speeds[0]} if pinned else {}
    if not pinned or min(speeds) >= SLOW:
        return Finding(name, OK, text, numbers=numbers, speeds=noted)
    cure = "see `nvidia-smi -q -d PCIE` for the lanes in use; what is placed on the host will be slow"
    return Finding(name, WARN, text, cure, numbers, noted)


CHECK = Check("bus", "bandwidth", 1, _bus)
