"""Real text as token ids: a small byte-level BPE trained on the training files, windows of equal length."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import islice
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer


@dataclass(frozen=True)
class Text:
    """Windows of token ids, [count, sequence]: for training, and from the two halves of another document.

    choosing: of its first half, by which learning rates are chosen. reporting: of its second, whose loss is reported.
    """

    train: torch.Tensor
    choosing: torch.Tensor
    reporting: torch.Tensor

    @property
    def digest(self) -> str:
        """Return twelve hex digits that change with any token."""
        parts = (self.train, self.choosing, self.reporting)
        return sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()[:12]


@cache
def load(train: tuple[Path, ...], held_out: Path, vocabulary: int, sequence: int, counts: tuple[int, int]) -> Text:
    """Train the tokenizer and cut all text into windows, once in a process.

    Args:
        train: the files for training, and for the tokenizer.
        held_out: another file.
        vocabulary: tokens of the tokenizer.
        sequence: tokens of a window.
        counts: windows of the first and of the second half of `held_out`, evenly spread.
    """
    texts = [read(path) for path in train]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=vocabulary, show_progress=False)
    rows = windows(tokenizer, [read(held_out)], sequence)
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    return Text(windows(tokenizer, texts, sequence), *(spread(*pair) for pair in zip(halves, counts, strict=True)))


def spread(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return `count` windows, or all if there are fewer, evenly spread over `rows` [windows, sequence]."""
    return rows[:: max(1, len(rows) // count)][:count]


def read(path: Path) -> str:
    """Return the text of a file; of JSON lines, every string value on lines of its own."""
    if not path.exists():
        raise SystemExit(f"{path} is missing; give the folder of the text with --data")
    text = path.read_text()
    if path.suffix != ".jsonl":
        return text
    rows = (json.loads(line).values() for line in text.splitlines())
    return "\n".join(value for row in rows for value in row if isinstance(value, str))


def windows(tokenizer: ByteLevelBPETokenizer, texts: list[str], sequence: int) -> torch.Tensor:
    """Return the texts on end as token ids [count, sequence].

    Args:
        tokenizer: makes the token ids.
        texts: the documents.
        sequence: tokens of a window; what fills none is left out.
    """
    ids = torch.cat([torch.tensor(tokenizer.encode(text).ids, dtype=torch.int32) for text in texts])
    if len(ids) < sequence:
        raise SystemExit(f"the text has {len(ids)} tokens, fewer than one window of {sequence}")
    return ids[: len(ids) // sequence * sequence].view(-1, sequence)


def batches(rows: torch.Tensor, size: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield batches [size, sequence] of token ids; every method sees the same.

    Args:
        rows: windows [count, sequence].
        size: windows in a batch.
        steps: batches.
        seed: which alone decides the order.
    """
    return (rows[chosen].long() for chosen in islice(shuffled(len(rows), size, seed), steps))


def shuffled(count: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield row numbers [size] without end, epoch after epoch.

    Args:
        count: rows.
        size: of a batch.
        seed: of the order.
    """
    if count < size:
        raise SystemExit(f"the text has {count} windows, fewer than one batch of {size}")
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator)[: count // size * size].view(-1, size)
