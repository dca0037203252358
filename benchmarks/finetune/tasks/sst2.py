"""Sentiment of sentences and phrases."""

from pathlib import Path

import torch

from ..budget import Budget
from ..encoder import ABOUT, ADAPTERS, classifier, encoded, tsv
from ..examples import Examples, Splits
from ..task import Task

BUDGET = Budget(steps=150, window=25, clip=None, validation=1000)


def splits(folder: Path, seed: int) -> Splits:
    """Read SST-2; what is learned from is the same for every seed, in another order."""
    held_out = read(folder, "heldout_of_train").shuffled(0).rows(torch.arange(BUDGET.validation))
    return Splits(read(folder, "train"), held_out, read(folder, "glue_dev"))


def read(folder: Path, split: str) -> Examples:
    """Return the sentences of one file."""
    source = folder / "sst2" / f"{split}.tsv"
    rows = tsv(source)
    texts, labels = [(row["sentence"],) for row in rows], [int(row["label"]) for row in rows]
    return encoded(f"sst2-{split}", source, texts, labels, BUDGET.max_length)


TASK = Task(
    title="SST-2",
    about=f"""Sentiment of sentences, learned from phrases of SST-2's train set. 1,000 phrases held out of it choose
the learning rate, GLUE's dev set (872 sentences) is reported. {ABOUT}""",
    budget=BUDGET,
    splits=splits,
    model=lambda folder, seed: classifier(2, seed),
    lora=ADAPTERS,
)
