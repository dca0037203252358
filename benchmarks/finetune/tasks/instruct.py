"""Answers to instructions: the loss on answers to instructions that were not seen."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from ..budget import Budget
from ..encoder import there
from ..examples import Examples, Splits
from ..language import END, Recipe, load, load_tokenizer, ready
from ..task import Task

BUDGET = Budget(steps=100, window=25, batch=8, max_length=192, validation=60)
RECIPE = Recipe()
FILES = ("seed_tasks.jsonl", "user_oriented_instructions.jsonl")
REPORTED = 120
MOST = 128  # tokens of instruction and input


def splits(folder: Path, seed: int) -> Splits:
    """Read the instructions: 60 to choose by, 120 to report, the others to learn from, in an order for each seed."""
    tokenizer = load_tokenizer(ready(folder, RECIPE))
    mixed = examples(list(pairs(folder / "instruct")), tokenizer).shuffled(0)
    held_out, reported = BUDGET.validation, BUDGET.validation + REPORTED
    parts = ((reported, len(mixed)), (0, held_out), (held_out, reported))
    return Splits(*(mixed.rows(torch.arange(*part)) for part in parts))


def pairs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what is asked and the answer, of the first instance of every instruction."""
    for name in FILES:
        for line in there(folder / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            one = row["instances"][0]
            given = f"\nInput: {one['input'].strip()}" if one["input"].strip() else ""
            yield f"Instruction: {row['instruction'].strip()}{given}\nAnswer:", f" {one['output'].strip()}"


def examples(texts: list[tuple[str, str]], tokenizer: Tokenizer) -> Examples:
    """Return token ids padded with 0, and labels, which are -100 but for answers.

    Args:
        texts: what is asked, and the answer.
        tokenizer: of the model.
    """
    ids = torch.zeros(len(texts), BUDGET.max_length, dtype=torch.int32)
    labels = torch.full_like(ids, -100)
    for row, (asked, answer) in enumerate(texts):
        before = tokenizer.encode(asked).ids[-MOST:]
        after = [*tokenizer.encode(answer).ids, END][: BUDGET.max_length - len(before)]
        whole = torch.tensor(before + after, dtype=torch.int32)
        ids[row, : len(whole)] = whole
        labels[row, len(before) : len(whole)] = whole[len(before) :]
    return Examples(ids, labels)


def model(folder: Path, seed: int) -> nn.Module:
    """Load the pre-trained model; nothing in it is new, so the seed is that of what follows."""
    torch.manual_seed(seed)
    return load(ready(folder, RECIPE), RECIPE)


TASK = Task(
    title="Instructions",
    about=f"""Answers to human-written instructions (Self-Instruct's seed and user-oriented tasks): 247 to learn from,
{BUDGET.validation} others choose the learning rate, {REPORTED} are reported, by the loss on the tokens of the answers.
The model is a Llama of 2.6 M parameters, pre-trained on a million tokens of Wikipedia, two novels, school maths and
passages; all weights are trained ("full"). It is too small to answer well: what is measured is how fast it moves to a
new kind of text.""",
    budget=BUDGET,
    splits=splits,
    model=model,
    lora={"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
    accuracy=False,
)
