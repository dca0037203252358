"""SST-2 as token ids: read once, cached beside the benchmarks, served in batches of similar length."""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from ..shared.places import CACHE
from .methods import Budget
from .model import model_folder

FILES = {"train": "train.tsv", "validation": "heldout_of_train.tsv", "test": "glue_dev.tsv"}
POOL = 50  # batches sorted by length together: short phrases then do not pay for the padding of long ones


@dataclass(frozen=True)
class Examples:
    """Token ids [count, max_length] padded with 0, and labels [count]."""

    ids: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> torch.Tensor:
        """Return the tokens of each example [count]."""
        return (self.ids != 0).sum(1)

    def batch(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what the model takes, cut to the longest of the chosen examples."""
        ids = self.ids[rows].long()
        ids = ids[:, : int((ids != 0).sum(1).max())]
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": self.labels[rows]}

    def sample(self, count: int) -> "Examples":
        """Return a fixed random choice of `count` examples (all of them if there are fewer)."""
        rows = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count]
        return Examples(self.ids[rows], self.labels[rows])


@dataclass(frozen=True)
class Splits:
    """The three splits of SST-2."""

    train: Examples
    validation: Examples
    test: Examples


def load_splits(folder: Path, budget: Budget) -> Splits:
    """Read the three splits; validation is a fixed random part of the held-out phrases."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)
    train, validation, test = (load(folder, split, tokenizer, budget.max_length) for split in FILES)
    return Splits(train, validation.sample(budget.validation), test)


def load(folder: Path, split: str, tokenizer, max_length: int) -> Examples:
    """Return one split, from the cache where its file is unchanged.

    Args:
        folder: of the TSVs.
        split: "train" | "validation" | "test".
        tokenizer: of the model.
        max_length: tokens of an example.
    """
    source = folder / FILES[split]
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    cached = CACHE / "sst2" / f"{split}-{max_length}-{digest}.safetensors"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        save_file(tokenised(source, tokenizer, max_length), cached)
    return Examples(**load_file(cached))


def tokenised(source: Path, tokenizer, max_length: int) -> dict[str, torch.Tensor]:
    """Return ids [count, max_length] and labels [count] of a tab-separated file.

    Args:
        source: the file, with the columns `sentence` and `label`.
        tokenizer: of the model.
        max_length: tokens of an example.
    """
    with source.open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    ids = tokenizer(
        [row["sentence"] for row in rows],
        truncation=True,
        padding="max_length",
        max_length=max_length,
        return_tensors="pt",
    )["input_ids"]
    return {"ids": ids.to(torch.int32), "labels": torch.tensor([int(row["label"]) for row in rows])}


def training_batches(examples: Examples, size: int, steps: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches; every method sees the same.

    Args:
        examples: of one split.
        size: examples in a batch.
        steps: batches.
        seed: which alone decides the order.
    """
    return (examples.batch(rows) for rows in islice(shuffled(examples, size, seed), steps))


def shuffled(examples: Examples, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield row numbers [size] without end, epoch after epoch; a batch holds examples of similar length.

    Args:
        examples: of one split.
        size: of a batch.
        seed: of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    whole = len(examples) // size * size
    while True:
        for pool in torch.randperm(len(examples), generator=generator)[:whole].split(size * POOL):
            rows = pool[examples.lengths[pool].argsort()].view(-1, size)
            yield from rows[torch.randperm(len(rows), generator=generator)]


def evaluation_batches(examples: Examples, size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield every example once, shortest first."""
    for rows in examples.lengths.argsort().split(size):
        yield examples.batch(rows)
