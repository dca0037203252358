"""Long texts that hide a review among other words, and a model that has learned to find one there.

The task that was designed for Addax: see DESIGN.md beside this file.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from . import cache, data
from .data import Review
from .examples import WARM, asking
from .model import Recipe
from .pretraining import Losses, losses_in_turn, train

PASSAGES = "boolq/val.jsonl"
SHARES = {"warm": (0.0, 0.6), "train": (0.6, 0.8), "validation": (0.8, 0.86), "test": (0.86, 1.0)}  # of the passages


@dataclass(frozen=True)
class Reading:
    """How the model learned to find a review among other words: under the questions of its warm start.

    base: of the model that it began as. before, after: the least and the most words in front of a review, and behind.
    """

    base: Recipe = field(default_factory=lambda: Recipe(steps=400, warm_steps=600))
    steps: int = 120
    batch: int = 16
    lr: float = 1e-3
    before: tuple[int, int] = (0, 10)
    after: tuple[int, int] = (42, 46)


def passages(folder: Path, share: str) -> list[str]:
    """Return the passages of one share in lower case; no two shares have one in common.

    Args:
        folder: of the text.
        share: "warm" | "train" | "validation" | "test".
    """
    rows = [json.loads(line)["passage"].lower() for line in (folder / PASSAGES).read_text().splitlines()]
    distinct = list(dict.fromkeys(rows))
    first, last = (round(bound * len(distinct)) for bound in SHARES[share])
    if first == last:
        raise SystemExit(f"{folder / PASSAGES} has too few passages, {len(distinct)}, for a share of its own: {share}")
    return distinct[first:last]


def buried(pool: list[Review], found: list[str], count: int, reading: Reading, seed: int) -> list[Review]:
    """Return long texts, as many of either label: a review in the midst of words that say nothing of it.

    Args:
        pool: the reviews; one comes again only when all of its label had their turn.
        found: passages that the other words come from.
        count: of texts.
        reading: says how many words are before and after.
        seed: of the choice.
    """
    draw = random.Random(seed)
    sides = [data.turns([text for text, label in pool if label == side], draw) for side in (0, 1)]
    words, made = words_of(found, draw), []
    for index in range(count):
        before, after = (
            " ".join(next(words) for _ in range(draw.randint(*span))) for span in (reading.before, reading.after)
        )
        made.append((f"{before} {next(sides[index % 2])} {after}".strip(), index % 2))
    return made


def words_of(found: list[str], draw: random.Random) -> Iterator[str]:
    """Yield the words of passages on end, without end."""
    for passage in data.turns(found, draw):
        yield from passage.split()


def ready(folder: Path, reading: Reading, bar: Callable[[int], Callable[[], None]], place: Path = cache.CACHE) -> Path:
    """Return where the model lies that can find reviews; it is made first if it is not there yet.

    Args:
        folder: of the text.
        reading: how it learned that.
        bar: is told how many steps that takes, and returns what is called after each.
        place: folder of all such models.
    """
    base = cache.ready(folder, reading.base, bar, place)
    digest = sha256(repr((asdict(reading), WARM, SHARES, base.name)).encode()).hexdigest()[:12]
    there = place / f"addax-buried-{digest}"
    if not there.exists():
        model, tokenizer = cache.load(base, reading.base).train(), cache.load_tokenizer(base)
        train(model, reading.lr, reading.steps, losses(model, tokenizer, folder, reading), bar(reading.steps))
        cache.publish(there, model, tokenizer)
    return there


def losses(model, tokenizer, folder: Path, reading: Reading) -> Losses:
    """Yield losses of the warm start's questions on buried reviews in turn, without end.

    Args:
        model: which computes them.
        tokenizer: of the model.
        folder: of the text.
        reading: says what a text and how large a batch is.
    """
    recipe = reading.base
    seen = data.reviews(folder, "train", recipe.fewest_words)[: recipe.warm_reviews]
    texts = buried(seen, passages(folder, "warm"), len(seen), reading, seed=1)
    asked = [asking(tokenizer, texts, question, recipe.sequence) for question in WARM]
    return losses_in_turn(model, asked, reading.batch)
