"""Examples as token ids, in batches of similar length."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

POOL = 50  # batches sorted by length together: short phrases then do not pay for the padding of long ones


@dataclass(frozen=True)
class Examples:
    """Token ids [count, max_length] padded with 0, and labels: [count] classes, or [count, max_length] tokens."""

    ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> Tensor:
        """Return the tokens of each example [count]."""
        return (self.ids != 0).sum(1)

    def rows(self, chosen: Tensor) -> "Examples":
        """Return the examples whose numbers are given [any]."""
        return Examples(self.ids[chosen], self.labels[chosen])

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return what the model takes, cut to the longest of the chosen examples."""
        ids, labels = self.ids[rows].long(), self.labels[rows].long()
        longest = int((ids != 0).sum(1).max())
        ids, labels = ids[:, :longest], labels[:, :longest] if labels.dim() == 2 else labels
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}

    def shuffled(self, seed: int) -> "Examples":
        """Return the examples in an order of their own."""
        return self.rows(torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)))


@dataclass(frozen=True)
class Splits:
    """Examples to learn from, to choose learning rates by, and to report."""

    train: Examples
    validation: Examples
    test: Examples


def training_batches(examples: Examples, size: int, steps: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Yield batches; every method sees the same.

    Args:
        examples: of one split.
        size: examples in a batch.
        steps: batches.
        seed: which alone decides the order.
    """
    return (examples.batch(rows) for rows in islice(order(examples, size, seed), steps))


def order(examples: Examples, size: int, seed: int) -> Iterator[Tensor]:
    """Yield row numbers [size] without end, epoch after epoch; a batch holds examples of similar length.

    Args:
        examples: of one split.
        size: of a batch.
        seed: of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    if (whole := len(examples) // size * size) == 0:
        raise SystemExit(f"{len(examples)} examples are fewer than one batch of {size}")
    while True:
        for pool in torch.randperm(len(examples), generator=generator)[:whole].split(size * POOL):
            rows = pool[examples.lengths[pool].argsort()].view(-1, size)
            yield from rows[torch.randperm(len(rows), generator=generator)]


def evaluation_batches(examples: Examples, size: int) -> Iterator[dict[str, Tensor]]:
    """Yield every example once, shortest first."""
    for rows in examples.lengths.argsort().split(size):
        yield examples.batch(rows)
