"""Real text for the Addax benchmark: short reviews and long ones with the same question, and unlabelled text."""

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer

PLAIN = (
    "wikitext2/test.txt",
    "wikitext2/valid.txt",
    "gutenberg/moby_dick.txt",
    "gutenberg/pride_and_prejudice.txt",
    "boolq/val.jsonl",
)
SST2 = {"train": "train.tsv", "validation": "heldout_of_train.tsv", "test": "glue_dev.tsv"}
SHORT = (" my thumbs are", (" down", " up"))
LONG = {  # the question that long reviews end in: the short ones' with the same answers, or one of its own
    "same": (" all in all , my thumbs are", (" down", " up")),
    "other": (" all in all , there is", (" nothing", " something")),
}
# What the warm start asks instead: the question of the task itself, and its answers, are new to the model.
WARM = (
    (" the film is", (" bad", " good")),
    (" i find it", (" poor", " great")),
    (" in a word :", (" poor", " interesting")),
)
PAD = 0  # at the right; what follows the last token of an example is never looked at

Review = tuple[str, int]  # lower-case text, 0 negative or 1 positive
Question = tuple[str, tuple[str, str]]  # what a text ends in, the answers of negative and positive


@dataclass(frozen=True)
class Examples:
    """Token ids [count, longest] padded at the right, tokens of each [count], 0/1 labels [count].

    answers [count, 2]: the token that answers each one negatively, and positively.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor
    answers: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: torch.Tensor) -> "Examples":
        """The chosen examples, cut to the longest of them."""
        lengths = self.lengths[rows]
        longest = int(lengths.max()) if len(rows) else 0
        return Examples(self.ids[rows, :longest], lengths, self.labels[rows], self.answers[rows])

    def up_to(self, threshold: int) -> tuple["Examples", "Examples"]:
        """Those of at most `threshold` tokens, and the longer ones."""
        short = self.lengths <= threshold
        return self[short.nonzero()[:, 0]], self[(~short).nonzero()[:, 0]]

    def longest(self, count: int) -> "Examples":
        """The `count` longest: the batch that needs most memory."""
        return self[self.lengths.argsort(descending=True)[:count]]

    def batches(self, size: int, seed: int) -> Iterator["Examples"]:
        """Batches without end, epoch after epoch, in an order that depends on `seed` alone."""
        generator = torch.Generator().manual_seed(seed)
        if len(self) < size:
            raise SystemExit(f"{len(self)} examples are fewer than one batch of {size}")
        while True:
            for rows in torch.randperm(len(self), generator=generator)[: len(self) // size * size].split(size):
                yield self[rows]


def reviews(folder: Path, split: str, fewest: int) -> list[Review]:
    """The texts of one split of SST-2 that have at least `fewest` words, in an order without meaning."""
    with (folder / "sst2" / SST2[split]).open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = [(row["sentence"].strip(), int(row["label"])) for row in rows if len(row["sentence"].split()) >= fewest]
    random.Random(0).shuffle(found)
    return found


def balanced(pool: list[Review], count: int) -> list[Review]:
    """The first of the pool, as many of either label."""
    sides = [[review for review in pool if review[1] == label][: count // 2] for label in (0, 1)]
    return [review for pair in zip(*sides, strict=True) for review in pair]


def bundles(pool: list[Review], count: int, sizes: tuple[int, int], positive: float, seed: int) -> list[Review]:
    """Long texts: `sizes` reviews (from, to) on end, two thirds of them of the label that the whole has.

    `positive` is the share of positive ones. A review comes in one text after another only when all had their turn.
    """
    draw = random.Random(seed)
    sides = [turns([text for text, label in pool if label == side], draw) for side in (0, 1)]
    made = []
    for index in range(count):
        label, size = int(index < positive * count), draw.randint(*sizes)
        agree = -(-2 * size // 3)
        parts = [next(sides[label]) for _ in range(agree)] + [next(sides[1 - label]) for _ in range(size - agree)]
        draw.shuffle(parts)
        made.append((" ".join(parts), label))
    return made


def turns(texts: list[str], draw: random.Random) -> Iterator[str]:
    """The texts without end, each time round in another order."""
    while True:
        yield from draw.sample(texts, len(texts))


def plain(folder: Path, sentences: list[Review]) -> Iterator[str]:
    """The unlabelled documents, in lower case; of JSON lines the passages and questions."""
    for name in PLAIN:
        text = (folder / name).read_text().lower()
        rows = [json.loads(line) for line in text.splitlines()] if name.endswith("jsonl") else []
        yield "\n".join(f"{row['passage']} {row['question']} ?" for row in rows) or text
    yield "\n".join(text for text, _ in sentences)


def tokenizer_of(texts: list[str], vocabulary: int) -> ByteLevelBPETokenizer:
    """A byte-level BPE trained on the texts; id 0 is kept for padding."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=["<pad>"], show_progress=False)
    return tokenizer


def word(tokenizer: ByteLevelBPETokenizer, text: str) -> int:
    """The token that answers; SystemExit where it is more than one."""
    ids = tokenizer.encode(text).ids
    if len(ids) != 1:
        raise SystemExit(f"{text!r} is {len(ids)} tokens in this vocabulary, but answers must be one")
    return ids[0]


def asking(tokenizer, found: list[Review], question: Question, most: int) -> Examples:
    """Each text (its end, where it is too long) followed by the question; what comes next is the answer."""
    text, answers = question
    rows = [torch.tensor(tokenizer.encode(review + text).ids[-most:]) for review, _ in found]
    words = torch.tensor([word(tokenizer, answer) for answer in answers]).expand(len(rows), 2)
    return Examples(padded(rows), torch.tensor([len(row) for row in rows]), torch.tensor([y for _, y in found]), words)


def padded(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def joined(first: Examples, second: Examples) -> Examples:
    """All examples of both."""
    ids = padded([*first.ids, *second.ids])
    rest = [torch.cat([getattr(part, name) for part in (first, second)]) for name in ("lengths", "labels", "answers")]
    return Examples(ids, *rest)
