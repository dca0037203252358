"""all-MiniLM-L6-v2 with a fresh head, and its tokenizer."""

import csv
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hybridopt.cli.demo.encoder import pretrained, tokenizer

from ..shared.places import CACHE
from .examples import Examples

# of LoRA: all linear layers but the head, which is new and trained in full
ADAPTERS = {
    "r": 16,
    "lora_alpha": 32,
    "target_modules": "all-linear",
    "modules_to_save": ["classifier"],
    "task_type": "SEQ_CLS",
}
ABOUT = """The model is all-MiniLM-L6-v2 (22.7 M parameters, the demo's encoder) with a fresh head; its embedding
tables are frozen for every method, as in FRUGAL's GLUE runs, so that 10.8 M parameters are trained ("full")."""


def classifier(labels: int, seed: int) -> nn.Module:
    """Load the model with a fresh head and frozen embedding tables."""
    model = pretrained(tuple(map(str, range(labels))), seed)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.requires_grad_(False)
    return model


def encoded(name: str, source: Path, rows: Sequence[tuple[str, ...]], labels: Sequence[int], longest: int) -> Examples:
    """Return texts as token ids, from the cache where the file they were read from is unchanged.

    Args:
        name: of the task and the split, for the cache.
        source: the file.
        rows: one text an example, or two; of two the second is cut.
        labels: one an example.
        longest: tokens of an example, and of the tensors.
    """
    digest = sha256(source.read_bytes()).hexdigest()[:12]
    cached = CACHE / "finetune" / f"{name}-{longest}-{digest}.safetensors"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        sides = list(zip(*rows, strict=True))
        cut = "longest_first" if len(sides) == 1 else "only_second"
        ids = tokenizer()(*map(list, sides), truncation=cut, padding="max_length", max_length=longest)["input_ids"]
        save_file({"ids": torch.tensor(ids, dtype=torch.int32), "labels": torch.tensor(list(labels))}, cached)
    return Examples(**load_file(cached))


def tsv(source: Path) -> list[dict[str, str]]:
    """Return the rows of a tab-separated file by its header."""
    with there(source).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def there(source: Path, where: str = "") -> Path:
    """Return the path of a file of data; SystemExit if it is missing, with `where` to get it."""
    if not source.exists():
        raise SystemExit(f"{source} is missing; give the folder of the data with --data{where}")
    return source
