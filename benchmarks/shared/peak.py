"""The most memory that some work takes."""

import gc
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

from .tensor_bytes import live


class Peak:
    """The most bytes allocated within a `with` block beyond those allocated at its start: `extra` afterwards.

    On CUDA it is what the caching allocator says (max_memory_allocated). On CPU it is the highest running sum of
    what torch's allocator hands out and takes back (torch.profiler's memory events); buffers that a library gets past
    that allocator, such as stack arrays of a kernel, are not seen.
    """

    def __init__(self, device: str):
        self.device, self.extra = torch.device(device), 0

    def __enter__(self) -> "Peak":
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            with silence():
                self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True).__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.extra = torch.cuda.max_memory_allocated(self.device) - self._before
            return
        with silence():
            self._profile.__exit__(*error)
        events = [e for e in self._profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        self.extra = highest(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))


def measured_step(work: Callable[[], object], root: object, device: str) -> dict:
    """Return what one step took.

    Args:
        work: the step; it waits for the device, and returns the loss or anything else.
        root: what holds all tensors that are there before the step.
        device: "cpu" or "cuda".

    Returns:
        peak_bytes: the most that was there at any time in the step. seconds: its time. loss: what `work` returned.
    """
    before = live(device, root)
    with Peak(device) as peak:
        start = time.perf_counter()
        loss = work()
        passed = time.perf_counter() - start
    return {"peak_bytes": before + peak.extra, "seconds": passed, "loss": loss}


@contextmanager
def silence() -> Iterator[None]:
    """Send what native code writes to standard error nowhere: the profiler announces every start and stop there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def highest(changes: Iterable[int]) -> int:
    """Return the largest running sum, at least 0."""
    total = top = 0
    for change in changes:
        total += change
        top = max(top, total)
    return top
