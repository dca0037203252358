"""What every run of the Addax table shares: the budget, the three splits, the model to begin with."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from . import buried, data
from .cache import load, load_tokenizer
from .examples import LONG, SHORT, Examples, asking, joined
from .model import Recipe


@dataclass(frozen=True)
class Budget:
    """What every run shares. Half of each split is short reviews, half is long: bundles of them.

    threshold is L_T in tokens; bundle the least and the most reviews in one long text; positive the share of positive
    long ones, and long what they are asked ("same" as the short ones, "other", or "regret"). after: the least and the
    most words behind the one review that is buried in a long text, instead of bundles.
    """

    steps: int = 400
    evaluations: int = 8
    train: int = 2000
    validation: int = 300
    test: int = 1000
    threshold: int = 72
    bundle: tuple[int, int] = (3, 5)
    positive: float = 0.3
    long: str = "same"
    after: tuple[int, int] | None = None


TASKS = {
    "same": Budget(),
    "other": Budget(positive=0.5, long="other"),
    "buried": Budget(200, 4, validation=200, test=500, threshold=48, positive=0.5, long="regret", after=(42, 46)),
}


@dataclass(frozen=True)
class Task:
    """The three splits, and the model to begin with."""

    train: Examples
    validation: Examples
    test: Examples
    model: nn.Module


def task_of(folder: Path, place: Path, recipe: Recipe, budget: Budget) -> Task:
    """Read model and splits; the training reviews are none that the warm start saw the labels of.

    Args:
        folder: of the text.
        place: of the model.
        recipe: of the model.
        budget: says how many examples a split has, and of which kind.
    """
    tokenizer = load_tokenizer(place)
    pools = {split: data.reviews(folder, split, recipe.fewest_words) for split in data.SST2}
    pools["train"] = pools["train"][recipe.warm_reviews :]
    splits = {}
    for split, pool in pools.items():
        half = getattr(budget, split) // 2
        long = long_ones(pool, half, budget, buried.passages(folder, split) if budget.after else [])
        splits[split] = mixed(tokenizer, data.balanced(pool, half), long, recipe, budget)
    return Task(splits["train"], splits["validation"], splits["test"], load(place, recipe))


def long_ones(pool: list[data.Review], count: int, budget: Budget, passages: list[str]) -> list[data.Review]:
    """Return the long texts of a split: bundles of reviews, or single ones among other words.

    Args:
        pool: the reviews.
        count: of texts.
        budget: says what they are.
        passages: that the other words come from.
    """
    if budget.after is None:
        return data.bundles(pool, count, budget.bundle, budget.positive, seed=0)
    return buried.buried(pool, passages, count, buried.Reading(after=budget.after), seed=0)


def mixed(tokenizer, short: list[data.Review], long: list[data.Review], recipe: Recipe, budget: Budget) -> Examples:
    """Return short and long texts, each with its question.

    Args:
        tokenizer: of the model.
        short: the short ones.
        long: the long ones.
        recipe: says how many tokens an example has at most.
        budget: says what long ones are asked.
    """
    parts = (short, SHORT), (long, LONG[budget.long])
    return joined(*(asking(tokenizer, texts, question, recipe.sequence) for texts, question in parts))
