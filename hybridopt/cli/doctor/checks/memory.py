"""Memory of the host: is it enough?"""

from collections.abc import Iterator
from pathlib import Path

from ....core.host_memory import left
from ....core.sizes import GIB, gib
from ..examine import Check
from ..finding import OK, SKIPPED, WARN, Finding
from ..machine import Machine

__all__ = ["CHECK"]

LITTLE = 4 * GIB


def _memory(_: Machine) -> Iterator[Finding]:
    found = left(Path("/"))
    if found is None:
        yield Finding("host memory", SKIPPED, "this system does not tell")
        return
    text, numbers = f"{gib(found)} free", {"free_bytes": float(found)}
    if found >= LITTLE:
        yield Finding("host memory", OK, text, numbers=numbers)
    else:
        cure = "end other programs; hybridopt.load needs room for the largest weights only, not for the whole model"
        yield Finding("host memory", WARN, text, cure, numbers)


CHECK = Check("host memory", "device", 2, _memory)
