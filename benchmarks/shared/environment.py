"""What a measurement depends on besides its settings."""

import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import torch

from hybridopt.core.version import versions

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def environment(packages: Iterable[str] = PACKAGES, device: str = "cpu") -> dict:
    """Return versions of what is installed, the processor, threads, the GPU where one is used, and the date."""
    return {
        **versions(packages),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        **({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """Return the processor's own name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
