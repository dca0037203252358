"""Real text for the Addax benchmark: short reviews, long ones made of them, and unlabelled text."""

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path

PLAIN = (
    "wikitext2/test.txt",
    "wikitext2/valid.txt",
    "gutenberg/moby_dick.txt",
    "gutenberg/pride_and_prejudice.txt",
    "boolq/val.jsonl",
)
SST2 = {"train": "train.tsv", "validation": "heldout_of_train.tsv", "test": "glue_dev.tsv"}

Review = tuple[str, int]  # lower-case text, 0 negative or 1 positive


def reviews(folder: Path, split: str, fewest: int) -> list[Review]:
    """Return labelled reviews of SST-2 in an order without meaning.

    Args:
        folder: of the text.
        split: "train" | "validation" | "test".
        fewest: words that a review has at least.
    """
    with (folder / "sst2" / SST2[split]).open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = [(row["sentence"].strip(), int(row["label"])) for row in rows if len(row["sentence"].split()) >= fewest]
    random.Random(0).shuffle(found)
    return found


def balanced(pool: list[Review], count: int) -> list[Review]:
    """Return the first `count` of the pool, as many of either label."""
    sides = [[review for review in pool if review[1] == label][: count // 2] for label in (0, 1)]
    return [review for pair in zip(*sides, strict=True) for review in pair]


def bundles(pool: list[Review], count: int, sizes: tuple[int, int], positive: float, seed: int) -> list[Review]:
    """Return long texts: reviews on end, two thirds of them of the label that the whole has.

    A review comes in one text after another only when all had their turn.

    Args:
        pool: the reviews.
        count: of long texts.
        sizes: the least and the most reviews in one text.
        positive: share (0..1) of positive texts.
        seed: of the choice.
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
    """Yield the texts without end, each time round in another order."""
    while True:
        yield from draw.sample(texts, len(texts))


def plain(folder: Path, sentences: list[Review]) -> Iterator[str]:
    """Yield the unlabelled documents in lower case, of JSON lines the passages and questions; last the sentences."""
    for name in PLAIN:
        text = (folder / name).read_text().lower()
        rows = [json.loads(line) for line in text.splitlines()] if name.endswith("jsonl") else []
        yield "\n".join(f"{row['passage']} {row['question']} ?" for row in rows) or text
    yield "\n".join(text for text, _ in sentences)
