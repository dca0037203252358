"""Yes or no, by a passage."""

import json
from pathlib import Path

import torch

from ..budget import Budget
from ..encoder import ABOUT, ADAPTERS, classifier, encoded, there
from ..examples import Splits
from ..task import Task

BUDGET = Budget(steps=150, window=25, max_length=128, validation=500)
TRAIN = 2000


def splits(folder: Path, seed: int) -> Splits:
    """Read BoolQ's val.jsonl: 500 questions to choose by, 770 to report, the others to learn from."""
    source = there(folder / "boolq" / "val.jsonl")
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    texts, labels = [(row["question"], row["passage"]) for row in rows], [int(row["label"]) for row in rows]
    mixed = encoded("boolq", source, texts, labels, BUDGET.max_length).shuffled(0)
    held_out, reported = TRAIN + BUDGET.validation, len(mixed)
    parts = ((0, TRAIN), (TRAIN, held_out), (held_out, reported))
    return Splits(*(mixed.rows(torch.arange(*part)) for part in parts))


TASK = Task(
    title="BoolQ",
    about=f"""Is it so, by the passage? Pairs of question and passage (cut) of BoolQ's val set: {TRAIN:,} to learn
from, 500 others choose the learning rate, the remaining 770 are reported, of which two thirds are true. {ABOUT}""",
    budget=BUDGET,
    splits=splits,
    model=lambda folder, seed: classifier(2, seed),
    lora=ADAPTERS,
)
