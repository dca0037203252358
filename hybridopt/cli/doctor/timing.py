"""How fast something is moved."""

from collections.abc import Callable
from time import perf_counter

import torch

__all__ = ["best", "speed"]

SECONDS, MOST = 0.5, 8  # a measurement takes so long, or so many tries


def best(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of a few tries; the first of them is not timed.

    Args:
        work: what is timed.
        device: waited for before and after.
    """
    _timed(work, device)
    times: list[float] = []
    while not times or (sum(times) < SECONDS and len(times) < MOST):
        times.append(_timed(work, device))
    return min(times)


def speed(moved: float) -> str:
    """Write bytes a second, in decimal units as makers of hardware do."""
    return f"{moved / 1e9:,.1f} GB/s" if moved >= 1e9 else f"{moved / 1e6:,.0f} MB/s"


def _timed(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = perf_counter()
    work()
    _wait(device)
    return perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
