"""Reviews as token ids, each followed by a question that one token answers."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

from .data import Review

SHORT = (" my thumbs are", (" down", " up"))
LONG = {  # the question that long reviews end in: the short ones' with the same answers, or one of its own
    "same": (" all in all , my thumbs are", (" down", " up")),
    "other": (" all in all , there is", (" nothing", " something")),
    "regret": (" all in all , i regret", (" something", " nothing")),
}
# What the warm start asks instead: the question of the task itself, and its answers, are new to the model.
WARM = (
    (" the film is", (" bad", " good")),
    (" i find it", (" poor", " great")),
    (" in a word :", (" poor", " interesting")),
)
PAD = 0  # at the right; what follows the last token of an example is never looked at

Question = tuple[str, tuple[str, str]]  # what a text ends in, the answers of negative and positive


@dataclass(frozen=True)
class Examples:
    """Token ids [count, longest] padded at the right, tokens of each [count], 0/1 labels [count].

    answers [count, 2]: the token that answers each one negatively, and positively.
    """

    ids: Tensor
    lengths: Tensor
    labels: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> "Examples":
        """Return the examples of these row numbers, cut to the longest of them."""
        lengths = self.lengths[rows]
        longest = int(lengths.max()) if len(rows) else 0
        return Examples(self.ids[rows, :longest], lengths, self.labels[rows], self.answers[rows])

    def up_to(self, threshold: int) -> tuple["Examples", "Examples"]:
        """Return those of at most `threshold` tokens, and the longer ones."""
        short = self.lengths <= threshold
        return self[short.nonzero()[:, 0]], self[(~short).nonzero()[:, 0]]

    def longest(self, count: int) -> "Examples":
        """Return the `count` longest: the batch that needs most memory."""
        return self[self.lengths.argsort(descending=True)[:count]]

    def cut(self, most: int) -> "Examples":
        """Return all examples, of those with more than `most` tokens only the last ones."""
        rows = [
            ids[max(0, length - most) : length] for ids, length in zip(self.ids, self.lengths.tolist(), strict=True)
        ]
        return Examples(padded(rows), self.lengths.clamp(max=most), self.labels, self.answers)

    def batches(self, size: int, seed: int) -> Iterator["Examples"]:
        """Yield batches without end, epoch after epoch, in an order that depends on `seed` alone."""
        generator = torch.Generator().manual_seed(seed)
        if len(self) < size:
            raise SystemExit(f"{len(self)} examples are fewer than one batch of {size}")
        while True:
            for rows in torch.randperm(len(self), generator=generator)[: len(self) // size * size].split(size):
                yield self[rows]


def tokenizer_of(texts: list[str], vocabulary: int) -> ByteLevelBPETokenizer:
    """Return a byte-level BPE trained on the texts; id 0 is kept for padding."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=["<pad>"], show_progress=False)
    return tokenizer


def word(tokenizer: ByteLevelBPETokenizer, text: str) -> int:
    """Return the token that answers; SystemExit where it is more than one."""
    ids = tokenizer.encode(text).ids
    if len(ids) != 1:
        raise SystemExit(f"{text!r} is {len(ids)} tokens in this vocabulary, but answers must be one")
    return ids[0]


def asking(tokenizer: ByteLevelBPETokenizer, found: list[Review], question: Question, most: int) -> Examples:
    """Return each text followed by a question; what would come next is the answer.

    Args:
        tokenizer: of the model.
        found: the texts with their labels.
        question: what is asked, and the answers of negative and positive.
        most: tokens of an example; of a longer text the end is taken.
    """
    text, answers = question
    rows = [torch.tensor(tokenizer.encode(review + text).ids[-most:]) for review, _ in found]
    words = torch.tensor([word(tokenizer, answer) for answer in answers]).expand(len(rows), 2)
    return Examples(padded(rows), torch.tensor([len(row) for row in rows]), torch.tensor([y for _, y in found]), words)


def padded(rows: list[Tensor]) -> Tensor:
    """Return rows of token ids as one tensor [rows, longest]."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def joined(first: Examples, second: Examples) -> Examples:
    """Return all examples of both."""
    ids = padded([*first.ids, *second.ids])
    rest = [torch.cat([getattr(part, name) for part in (first, second)]) for name in ("lengths", "labels", "answers")]
    return Examples(ids, *rest)
