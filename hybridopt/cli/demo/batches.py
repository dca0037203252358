"""Tokenize texts and cut them into batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .encoder import Tokenizer
from .snippets import Snippet

__all__ = ["Example", "encode", "in_order", "shuffled"]

LONGEST = 64  # tokens
TRAIN_BATCH = 16
TEST_BATCH = 32


@dataclass(frozen=True)
class Example:
    """Token numbers of one text and the index of its label."""

    tokens: list[int]
    label: int


def encode(snippets: list[Snippet], labels: tuple[str, ...], tokenizer: Tokenizer) -> list[Example]:
    """Tokenize the texts, cut at 64 tokens.

    Args:
        snippets: the texts with their packages.
        labels: all packages; an example's label is the index in it.
        tokenizer: the encoder's.
    """
    tokens = tokenizer([s.text for s in snippets], truncation=True, max_length=LONGEST)["input_ids"]
    return [Example(t, labels.index(s.package)) for t, s in zip(tokens, snippets, strict=True)]


def shuffled(examples: list[Example], steps: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Yield training batches of at most 16 texts of similar length, again and again until `steps` are reached.

    Args:
        examples: all training texts.
        steps: number of batches.
        seed: of their order; the same batches for the same seed.
    """
    random = torch.Generator().manual_seed(seed)
    waiting: list[list[int]] = []
    for _ in range(steps):
        waiting = waiting or _epoch([len(e.tokens) for e in examples], random)
        yield _collate([examples[i] for i in waiting.pop()])


def in_order(examples: list[Example]) -> Iterator[dict[str, Tensor]]:
    """Yield batches of at most 32 texts: every example once, in the order given."""
    for start in range(0, len(examples), TEST_BATCH):
        yield _collate(examples[start : start + TEST_BATCH])


def _epoch(lengths: list[int], random: torch.Generator) -> list[list[int]]:
    """Return batches of indices, each index once: sorted by length (equal ones at random), batches in random order."""
    order = sorted(torch.randperm(len(lengths), generator=random).tolist(), key=lengths.__getitem__)
    batches = [order[start : start + TRAIN_BATCH] for start in range(0, len(order), TRAIN_BATCH)]
    return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]


def _collate(examples: list[Example]) -> dict[str, Tensor]:
    """Return tensors [batch, longest], padded with token 0, which the mask hides, and labels [batch]."""
    longest = max(len(e.tokens) for e in examples)
    padded = [e.tokens + [0] * (longest - len(e.tokens)) for e in examples]
    mask = [[1] * len(e.tokens) + [0] * (longest - len(e.tokens)) for e in examples]
    return {
        "input_ids": torch.tensor(padded),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor([e.label for e in examples]),
    }
