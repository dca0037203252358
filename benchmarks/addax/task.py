"""What every run of the Addax table shares: the budget, the three splits, the model to begin with."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from . import data
from .cache import load, load_tokenizer
from .examples import LONG, SHORT, Examples, asking, joined
from .model import Recipe


@dataclass(frozen=True)
class Budget:
    """What every run shares. Half of each split is short reviews, half is long: bundles of them.

    threshold is L_T in tokens; bundle the least and the most reviews in one long text; positive the share of positive
    long ones, and long what they are asked ("same" as the short ones, or "other").
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


TASKS = {"same": Budget(), "other": Budget(positive=0.5, long="other")}


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
    splits = [mixed(tokenizer, pool, getattr(budget, split), recipe, budget) for split, pool in pools.items()]
    return Task(*splits, load(place, recipe))


def mixed(tokenizer, pool: list[data.Review], count: int, recipe: Recipe, budget: Budget) -> Examples:
    """Return half short reviews with as many of either label, half long ones.

    Args:
        tokenizer: of the model.
        pool: the reviews.
        count: of examples.
        recipe: says how many tokens an example has at most.
        budget: says what long ones are.
    """
    half = count // 2
    short = asking(tokenizer, data.balanced(pool, half), SHORT, recipe.sequence)
    bundles = data.bundles(pool, half, budget.bundle, budget.positive, seed=0)
    return joined(short, asking(tokenizer, bundles, LONG[budget.long], recipe.sequence))
