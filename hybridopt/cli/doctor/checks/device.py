"""The device: which it is, what torch can do with it, and how much of its memory is really free."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ....core.devices import WITH_CUDA, free_bytes
from ....core.sizes import gib
from ..examine import Check
from ..finding import FAIL, OK, SKIPPED, WARN, Finding
from ..machine import Machine

__all__ = ["CHECK", "Card", "card", "without_card"]

DRIVER = Path("/proc/driver/nvidia/version")
BF16_FROM = (8, 0)


@dataclass(frozen=True)
class Card:
    """A GPU, as torch knows it.

    Args:
        name: of the product.
        capability: of its architecture, such as (9, 0).
        compiled_for: architectures for which this torch has kernels: "sm_90", "compute_90".
        total: bytes of its memory.
        free: bytes that torch could still allocate.
        own: bytes that this process has taken.
    """

    name: str
    capability: tuple[int, int]
    compiled_for: Sequence[str]
    total: int
    free: int
    own: int


def _device(machine: Machine) -> Iterator[Finding]:
    if machine.cuda:
        yield from card(_known(machine.device))
    else:
        yield without_card(torch.version.cuda, DRIVER.exists(), torch.cuda.is_available())


def _known(device: torch.device) -> Card:
    told, free = torch.cuda.get_device_properties(device), free_bytes(device)
    own = torch.cuda.memory_allocated(device)
    return Card(told.name, (told.major, told.minor), torch.cuda.get_arch_list(), told.total_memory, free, own)


def card(known: Card) -> Iterator[Finding]:
    """Yield the lines about a GPU."""
    major, minor = known.capability
    name = f"{known.name}, sm_{major}{minor}"
    if not _runs(known):
        text = f"{name}, and this torch has kernels for {', '.join(known.compiled_for)}"
        yield Finding("GPU", FAIL, text, f"install a torch that has them: {WITH_CUDA}")
    else:
        yield Finding("GPU", OK, f"{name}, CUDA {torch.version.cuda}")
    if known.capability < BF16_FROM:
        text = "the GPU has no bfloat16 arithmetic, which is slow then"
        yield Finding("bfloat16", WARN, text, "load models with dtype=torch.float32, or quantize them")
    taken = max(0, known.total - known.free - known.own)
    text = f"{gib(known.free)} of {gib(known.total)} free"
    numbers = {"free_bytes": float(known.free), "total_bytes": float(known.total)}
    if known.free >= known.total / 2:
        yield Finding("GPU memory", OK, text, numbers=numbers)
    else:
        cure = f"others hold {gib(taken)}: end what `nvidia-smi` lists, or plan with --gpu {known.free // 2**20}MiB"
        yield Finding("GPU memory", WARN, text, cure, numbers)


def without_card(cuda: str | None, driver: bool, usable: bool) -> Finding:
    """Return the line about the CPU, which says why no GPU is examined.

    Args:
        cuda: the version that torch was built for; None: it was not.
        driver: is the driver of NVIDIA there?
        usable: can torch use a GPU, and was it not asked to?
    """
    if usable:
        return Finding("device", OK, "cpu, as asked; torch can use a GPU here, too")
    if driver and cuda is None:
        text = "cpu: there is a driver for GPUs, but this torch is built without CUDA"
        return Finding("device", WARN, text, WITH_CUDA)
    if driver:
        text = f"cpu: there is a driver for GPUs, but torch, built for CUDA {cuda}, cannot use it"
        return Finding("device", WARN, text, "see what `nvidia-smi` says; update the driver, or take an older torch")
    return Finding("device", SKIPPED, "cpu: there is no GPU here, so what is special to GPUs is left out")


def _runs(known: Card) -> bool:
    """Return whether there are kernels: of the same major version from its minor on, or code to compile further."""
    major, minor = known.capability
    for one in known.compiled_for:
        kind, _, number = one.partition("_")
        digits = "".join(c for c in number if c.isdigit())
        if not digits:
            continue
        built = int(digits[:-1]), int(digits[-1])
        if kind == "compute" and built <= (major, minor):
            return True
        if kind == "sm" and built[0] == major and built[1] <= minor:
            return True
    return not known.compiled_for


CHECK = Check("device", "device", 0, _device)
