"""Cores that are granted, against the threads that torch takes."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from ....core.system_files import words
from ..examine import Check
from ..finding import OK, WARN, Finding
from ..machine import Machine

__all__ = ["CHECK", "granted", "threads"]

GROUPS = ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")  # versions 2 and 1


def _threads(_: Machine) -> Iterator[Finding]:
    yield threads(torch.get_num_threads(), granted(Path("/"), _cores()), torch.backends.cpu.get_cpu_capability())


def threads(taken: int, cores: float, capability: str) -> Finding:
    """Return the line about the processor.

    Args:
        taken: threads of torch.
        cores: that this process may use at a time.
        capability: the widest instructions that torch uses, such as AVX512.
    """
    text = f"{cores:g} core{'s' * (cores != 1)} granted, {taken} thread{'s' * (taken != 1)} of torch, {capability}"
    numbers = {"cores": cores, "threads": float(taken)}
    if taken <= max(1, cores):
        return Finding("processor", OK, text, numbers=numbers)
    cure = f"set OMP_NUM_THREADS={max(1, int(cores))}: more threads than cores wait for each other"
    return Finding("processor", WARN, text, cure, numbers)


def granted(root: Path, cores: int) -> float:
    """Return how many cores this process may use at a time, as its control group says.

    Args:
        root: where the system's own files lie.
        cores: on which it may run.
    """
    told = [[word for name in names for word in words(root / "sys/fs/cgroup" / name)] for names in GROUPS]
    shares = [int(quota) / int(period) for quota, period in filter(_limited, told)]
    return min([float(cores), *shares])


def _limited(told: list[str]) -> bool:
    return len(told) == 2 and all(word.isdigit() for word in told)  # "max" and -1: there is no limit


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


CHECK = Check("processor", "device", 1, _threads)
