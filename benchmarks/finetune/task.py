"""What a task of the fine-tuning table is."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from .budget import Budget
from .examples import Splits


@dataclass(frozen=True, eq=False)
class Task:
    """A model, examples, and what counts.

    title: of its table. about: sentences below it. budget: of every run. splits: reads the examples, given the folder
    of all data and a seed, of which only the examples to learn from may depend. model: loads the model, given the
    folder, with what is new in it drawn from a seed. lora: arguments of LoraConfig. accuracy: is it what counts? Else
    the loss. Two tasks are the same if they are one object.
    """

    title: str
    about: str
    budget: Budget
    splits: Callable[[Path, int], Splits]
    model: Callable[[Path, int], nn.Module]
    lora: dict = field(default_factory=dict)
    accuracy: bool = True

    def settings(self) -> dict:
        """Return everything besides method, learning rate and seed that decides a run, as JSON has it."""
        return asdict(self.budget)
