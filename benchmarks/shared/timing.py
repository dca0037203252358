"""Seconds of some work, and of the steps of a training run."""

import time
from collections.abc import Callable
from statistics import mean, median

import numpy as np
import torch


def seconds(work: Callable[[], object], device: str) -> float:
    """Return the seconds that some work takes; on CUDA between two events, so with the gaps between its kernels."""
    if device != "cuda":
        before = time.perf_counter()
        work()
        return time.perf_counter() - before
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def clock() -> np.ndarray:
    """Return seconds [2] by the wall, and of processor time, which does not see who else computes."""
    return np.array([time.perf_counter(), time.process_time()])


def summary(steps: list[dict]) -> dict:
    """Return what a run's steps took: loss of the end, largest state, median and mean of every "...seconds".

    Rare work, such as choosing a subspace anew, shows in the mean alone.
    """
    times = {key: [step[key] for step in steps] for key in steps[0] if key.endswith("seconds")}
    return {
        "final_loss": mean(step["loss"] for step in steps[-max(1, len(steps) // 10) :]),
        "state_bytes": max(step["state_bytes"] for step in steps),
        **{f"{key}_per_step": {"median": median(values), "mean": mean(values)} for key, values in times.items()},
    }


def least(records: list[dict], key: str) -> dict[str, float]:
    """Return median and mean of the least disturbed run; the learning rate does not matter for times."""
    return min((record[key] for record in records), key=lambda times: times["median"])
