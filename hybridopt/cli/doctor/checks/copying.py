"""How fast the device moves its own memory."""

from collections.abc import Iterator
from pathlib import Path

import torch

from ....core.devices import free_bytes
from ....core.host_memory import left
from ....core.sizes import GIB, human
from ..examine import Check
from ..finding import OK, WARN, Finding
from ..machine import Machine
from ..timing import best, speed

__all__ = ["CHECK", "copied", "size_for"]

LARGEST, LEAST = {"cuda": GIB, "cpu": GIB // 8}, 1 << 20  # bytes of a tensor
PARTS = 8  # as much of the free memory is taken


def _copying(machine: Machine) -> Iterator[Finding]:
    free = free_bytes(machine.device) if machine.cuda else left(Path("/"))
    yield copied(machine.device, size_for(free, machine.device.type))


def size_for(free: int | None, kind: str) -> int:
    """Return the bytes of a tensor to copy: large, but a small part of the memory.

    free: bytes; None if they are not known. kind: "cuda" or "cpu".
    """
    return LARGEST[kind] if free is None else min(LARGEST[kind], free // PARTS)


def copied(device: torch.device, size: int) -> Finding:
    """Return the line about copying a tensor of so many bytes."""
    name = f"memory of {device.type}"
    if size < LEAST:
        return Finding(name, WARN, "too little is free to measure it", "end what else uses the memory")
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    moved = 2 * size / best(lambda: target.copy_(source), device)
    text = f"{speed(moved)}, read and written, by copies of {human(size)}"
    return Finding(name, OK, text, numbers={"bytes_per_second": moved})


CHECK = Check("copy bandwidth", "bandwidth", 0, _copying)
