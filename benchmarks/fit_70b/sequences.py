"""Which sequence lengths fit."""

import torch

from .scenarios import CONTEXT
from .training import Training

STEPS = 2  # the first makes the state, and may compile


def first_that_fits(training: Training, sequences: tuple[int, ...], steps: int = STEPS) -> None:
    """Train on the longest of the sequences that the device has memory for.

    Args:
        training: what trains.
        sequences: lengths in tokens, the longest first.
        steps: on each.
    """
    for sequence in sequences:
        try:
            training.steps(sequence, steps)
            return
        except torch.OutOfMemoryError as error:
            training.note(failed_sequences=[*training.found.get("failed_sequences", []), sequence])
            training.note(error=str(error)[:200])
        training.clear()
    raise MemoryError(f"none of the sequences {sequences} fits")


def shorter(length: int) -> tuple[int, ...]:
    """Return a length, and two that are tried where it does not fit after all."""
    return tuple(int(length * share) for share in (1, 0.95, 0.9))


def hold(device: str, budget: int) -> int:
    """Hold the allocator to a budget of bytes; return those of the card (on a CPU the budget)."""
    if torch.device(device).type != "cuda":
        return budget
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (budget - CONTEXT) / total))
    return total
