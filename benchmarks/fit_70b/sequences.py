"""Which sequence lengths fit."""

import torch

from .scenarios import CONTEXT
from .training import Training

STEPS = 2  # the first makes the state, and may compile
GRAIN = 64  # tokens


def first_that_fits(training: Training, sequences: tuple[int, ...]) -> None:
    """Train on the longest of the sequences that the device has memory for."""
    for sequence in sequences:
        try:
            training.steps(sequence, STEPS)
            return
        except torch.OutOfMemoryError as error:
            _note_failed(training, sequence)
            training.note(error=str(error)[:200])
        training.clear()
    raise MemoryError(f"none of the sequences {sequences} fits")


def longest(training: Training, budget: int, short: tuple[int, int]) -> None:
    """Train on the longest sequence in the budget: a line through two short ones tells it, and one step tells more.

    Args:
        training: what trains.
        budget: bytes.
        short: two lengths in tokens.
    """
    low, high = training.steps(short[0], 2), training.steps(short[1], 1)
    slope = (high - low) / (short[1] - short[0])
    sequence = short[1] + (budget - high) / slope
    for share in (0.99, 0.95, 0.9):
        length = int(sequence * share) // GRAIN * GRAIN
        training.clear()
        try:
            if training.steps(length, 1) <= budget:
                return
        except torch.OutOfMemoryError:
            _note_failed(training, length)
    raise MemoryError(f"not even {length} tokens fit")


def limit(device: str, budget: int) -> int:
    """Return the bytes for tensors on a card of `budget` bytes; on CUDA the allocator is held to it."""
    if torch.device(device).type == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (budget - CONTEXT) / total))
    return int(budget - CONTEXT)


def _note_failed(training: Training, sequence: int) -> None:
    training.note(failed_sequences=[*training.found.get("failed_sequences", []), sequence])
