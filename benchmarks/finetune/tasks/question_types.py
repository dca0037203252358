"""A practitioner's case: sixteen questions of each type, a minute of training, 500 questions to sort."""

from pathlib import Path

import torch

from ..budget import Budget
from ..encoder import ABOUT, ADAPTERS, classifier, encoded, there
from ..examples import Examples, Splits
from ..task import Task

BUDGET = Budget(steps=60, window=15, max_length=48, validation=300)
SHOTS = 16
TYPES = 6
WHERE = " (TREC's question types: data/TREC.train.all and TREC.test.all of github.com/harvardnlp/sent-conv-torch)"


def splits(folder: Path, seed: int) -> Splits:
    """Read TREC's questions: sixteen of each type to learn from, drawn by the seed, and 300 others to choose by."""
    everything = read(folder, "train").shuffled(0)
    held_out, rest = everything.rows(torch.arange(BUDGET.validation)), torch.arange(BUDGET.validation, len(everything))
    return Splits(shots(everything.rows(rest), seed), held_out, read(folder, "test"))


def read(folder: Path, split: str) -> Examples:
    """Return the questions of one file, a line each: the number of the type, a blank, the words."""
    source = there(folder / "trec" / f"{split}.txt", WHERE)
    lines = [line.split(" ", 1) for line in source.read_text(encoding="latin-1").splitlines()]
    words, labels = [(text.strip(),) for _, text in lines], [int(label) for label, _ in lines]
    return encoded(f"trec-{split}", source, words, labels, BUDGET.max_length)


def shots(examples: Examples, seed: int) -> Examples:
    """Return the first sixteen of each type in an order that the seed decides."""
    mixed = examples.shuffled(seed)
    rows = [(mixed.labels == label).nonzero()[:SHOTS, 0] for label in range(TYPES)]
    return mixed.rows(torch.cat(rows))


TASK = Task(
    title="Question types, 16 examples each",
    about=f"""Six types of questions (TREC, Li and Roth 2002), {SHOTS} of each to learn from, drawn anew for each
seed, ten epochs. 300 other questions choose the learning rate, TREC's 500 test questions are
reported. {ABOUT}""",
    budget=BUDGET,
    splits=splits,
    model=lambda folder, seed: classifier(TYPES, seed),
    lora=ADAPTERS,
)
