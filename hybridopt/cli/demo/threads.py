"""Choose the number of threads by timing: torch counts the machine's cores, not those that are free or granted."""

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor, nn

__all__ = ["choose", "fastest"]

GAIN = 0.9  # more threads must take at most this share of the time


def choose(model: nn.Module, batch: dict[str, Tensor]) -> int:
    """Set torch's number of threads, at most what it was, to the fastest for the model on a batch; return it.

    Two threads on one free core take five times as long as one. The model's gradients are None afterwards.
    """
    model(**batch).loss.backward()  # what is done once only is not timed
    threads = fastest(lambda count: min(_seconds(model, batch, count) for _ in range(2)), torch.get_num_threads())
    torch.set_num_threads(threads)
    model.zero_grad()
    return threads


def fastest(seconds: Callable[[int], float], most: int) -> int:
    """Return the last number of threads among 1, 2, 4 ... `most` that was clearly faster than the one before.

    Args:
        seconds: times a number of threads.
        most: the largest number to try.
    """
    best, least = 1, seconds(1)
    while best < most:
        count = min(2 * best, most)
        now = seconds(count)
        if now > GAIN * least:
            break
        best, least = count, now
    return best


def _seconds(model: nn.Module, batch: dict[str, Tensor], threads: int) -> float:
    torch.set_num_threads(threads)
    start = perf_counter()
    model(**batch).loss.backward()
    return perf_counter() - start
