"""What the demo found, as numbers, and what must not be."""

import math
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

__all__ = ["Data", "Reload", "Result", "Run", "versions"]

LIBRARIES = ("hybridopt", "torch", "transformers", "peft", "bitsandbytes")
MARGIN = 0.05  # of accuracy above the floor, at least


@dataclass(frozen=True)
class Data:
    """Sizes of the task, and the floor: test accuracy of always giving the test set's most frequent label."""

    labels: tuple[str, ...]
    train: int
    test: int
    train_modules: int
    test_modules: int
    dropped: int
    floor: float

    @property
    def bar(self) -> float:
        """The accuracy from which on something was learned: two standard errors above the floor, and 5 points."""
        error = math.sqrt(self.floor * (1 - self.floor) / self.test)
        return self.floor + max(MARGIN, 2 * error)


@dataclass(frozen=True)
class Run:
    """One run: accuracy on the held-out modules, measured bytes, seconds of training, the loss of every step.

    `grad_bytes` is the most that was there at once; `report` is what `model.hybrid.report()` had announced.
    """

    name: str
    title: str
    accuracy: float
    weight_bytes: int
    grad_bytes: int
    state_bytes: int
    seconds: float
    lr: float
    losses: tuple[float, ...]
    report: dict[str, Any]


@dataclass(frozen=True)
class Reload:
    """The last run, saved and loaded onto a fresh base: how its outputs on the test set compare."""

    folder: str
    files: dict[str, int]
    predictions: int
    agreeing: int
    identical: bool
    largest_difference: float


@dataclass(frozen=True)
class Result:
    """Everything that the demo measured."""

    model: str
    seed: int
    steps: int
    threads: int
    seconds: float
    data: Data
    runs: tuple[Run, ...]
    reload: Reload
    versions: dict[str, str]

    def problems(self) -> list[str]:
        """What went wrong, in words: runs that learned nothing, and predictions that changed on the way."""
        bar, floor = self.data.bar, self.data.floor
        low = f"is not clearly above the floor of {floor:.1%}; it takes {bar:.1%}"
        found = [f"{run.title}: accuracy {run.accuracy:.1%} {low}" for run in self.runs if run.accuracy < bar]
        changed = self.reload.predictions - self.reload.agreeing
        if changed:
            found.append(f"the model loaded from {self.reload.folder} predicts {changed} of the texts differently")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain data: the runs by name, and under `problems` what is wrong."""
        plain = asdict(self)
        plain["data"]["bar"] = self.data.bar
        plain["runs"] = {run.pop("name"): run for run in plain["runs"]}
        return plain | {"problems": self.problems()}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that matter for the numbers."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
