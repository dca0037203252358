"""Real text as token ids: a small byte-level BPE trained on the training files, windows of equal length."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer


@dataclass(frozen=True)
class Text:
    """Windows of token ids, [count, sequence]; validation comes from another document than training."""

    train: torch.Tensor
    validation: torch.Tensor

    @property
    def digest(self) -> str:
        """Twelve hex digits that change with any token."""
        return sha256(self.train.numpy().tobytes() + self.validation.numpy().tobytes()).hexdigest()[:12]


def load(train: list[Path], validation: Path, vocabulary: int, sequence: int, count: int) -> Text:
    """Train the tokenizer on `train`, cut both into windows; validation is `count` of them, evenly spread."""
    texts = [read(path) for path in train]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=vocabulary, show_progress=False)
    held_out = windows(tokenizer, [read(validation)], sequence)
    return Text(windows(tokenizer, texts, sequence), held_out[:: max(1, len(held_out) // count)][:count])


def read(path: Path) -> str:
    """The text of a file; of JSON lines, every string value on lines of its own."""
    if not path.exists():
        raise SystemExit(f"{path} is missing; give the folder of the text with --data")
    text = path.read_text()
    if path.suffix != ".jsonl":
        return text
    rows = (json.loads(line).values() for line in text.splitlines())
    return "\n".join(value for row in rows for value in row if isinstance(value, str))


def windows(tokenizer: ByteLevelBPETokenizer, texts: list[str], sequence: int) -> torch.Tensor:
    """Token ids of the texts one after the other, [count, sequence]; what fills no window is left out."""
    ids = torch.cat([torch.tensor(tokenizer.encode(text).ids, dtype=torch.int32) for text in texts])
    if len(ids) < sequence:
        raise SystemExit(f"the text has {len(ids)} tokens, fewer than one window of {sequence}")
    return ids[: len(ids) // sequence * sequence].view(-1, sequence)


def batches(rows: torch.Tensor, size: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield `steps` batches [size, sequence] in an order that depends on `seed` alone; every method sees the same."""
    return (rows[chosen].long() for chosen in islice(shuffled(len(rows), size, seed), steps))


def shuffled(count: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield row numbers [size] without end, epoch after epoch."""
    if count < size:
        raise SystemExit(f"the text has {count} windows, fewer than one batch of {size}")
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator)[: count // size * size].view(-1, size)
