"""From texts to batches of tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

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


def encode(snippets: list[Snippet], labels: tuple[str, ...], tokenizer) -> list[Example]:
    """Tokenize the texts, cut at 64 tokens."""
    tokens = tokenizer([s.text for s in snippets], truncation=True, max_length=LONGEST)["input_ids"]
    return [Example(t, labels.index(s.package)) for t, s in zip(tokens, snippets, strict=True)]


def shuffled(examples: list[Example], steps: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """`steps` training batches of 16 texts of similar length; the same ones for the same seed."""
    random = torch.Generator().manual_seed(seed)
    waiting: list[list[int]] = []
    for _ in range(steps):
        waiting = waiting or _epoch([len(e.tokens) for e in examples], random)
        yield _collate([examples[i] for i in waiting.pop()])


def in_order(examples: list[Example]) -> Iterator[dict[str, Tensor]]:
    """Every example once, in the order given."""
    for start in range(0, len(examples), TEST_BATCH):
        yield _collate(examples[start : start + TEST_BATCH])


def _epoch(lengths: list[int], random: torch.Generator) -> list[list[int]]:
    """Every index once: texts of one length meet at random, and the batches come in random order."""
    order = sorted(torch.randperm(len(lengths), generator=random).tolist(), key=lengths.__getitem__)
    batches = [order[start : start + TRAIN_BATCH] for start in range(0, len(order), TRAIN_BATCH)]
    return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]


def _collate(examples: list[Example]) -> dict[str, Tensor]:
    """Tensors [batch, longest], padded with token 0, which the mask hides; labels [batch]."""
    longest = max(len(e.tokens) for e in examples)
    padded = [e.tokens + [0] * (longest - len(e.tokens)) for e in examples]
    mask = [[1] * len(e.tokens) + [0] * (longest - len(e.tokens)) for e in examples]
    return {
        "input_ids": torch.tensor(padded),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor([e.label for e in examples]),
    }
