"""The numbers that the demo measures, and which of them are failures."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ...core import version

__all__ = ["DemoData", "Reload", "DemoResult", "DemoRun", "versions"]

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
MARGIN = 0.05  # of accuracy above the floor, at least


@dataclass(frozen=True)
class DemoData:
    """Sizes of the classification task.

    Args:
        labels: names of the packages.
        train: number of training texts.
        test: number of test texts.
        train_modules: number of modules that the training texts come from.
        test_modules: number of other modules that the test texts come from.
        dropped: number of training texts that were dropped because they resembled a test text.
        floor: test accuracy of always answering the test set's most frequent label.
    """

    labels: tuple[str, ...]
    train: int
    test: int
    train_modules: int
    test_modules: int
    dropped: int
    floor: float

    @property
    def bar(self) -> float:
        """Return the least accuracy of a run that learned: above the floor by 2 standard errors and by 5 points."""
        return self.floor + max(MARGIN, 2 * self.error(self.floor))

    def error(self, accuracy: float) -> float:
        """Return the standard error of an accuracy on the test texts, as a share."""
        return math.sqrt(accuracy * (1 - accuracy) / self.test)


@dataclass(frozen=True)
class DemoRun:
    """One training run.

    Args:
        name: of the setup.
        title: of the setup, for people.
        accuracy: share of the test texts that are answered right.
        weight_bytes: of the parameters and buffers.
        grad_bytes: of gradients, the most that was there at once.
        state_bytes: of the optimizer's state.
        seconds: of training.
        lr: peak learning rate.
        losses: of every step.
        report: what `model.hybrid.report()` had announced before training, as plain data.
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
    """How outputs on the test set compare after the last model was saved and loaded onto a fresh base.

    Args:
        folder: where it was saved.
        files: bytes of every saved file, by path in the folder.
        predictions: number of test texts.
        agreeing: number of texts for which both models predict the same label.
        identical: all logits are equal bit for bit.
        largest_difference: between two logits.
    """

    folder: str
    files: dict[str, int]
    predictions: int
    agreeing: int
    identical: bool
    largest_difference: float


@dataclass(frozen=True)
class DemoResult:
    """Everything that the demo measured.

    Args:
        model: name of the encoder.
        seed: of the whole demo.
        steps: training steps of each run.
        threads: of torch.
        seconds: of the whole demo.
        data: sizes of the task.
        runs: in the order of training.
        reload: the last model, saved and loaded.
        versions: of Python and the libraries.
    """

    model: str
    seed: int
    steps: int
    threads: int
    seconds: float
    data: DemoData
    runs: tuple[DemoRun, ...]
    reload: Reload
    versions: dict[str, str]

    def problems(self) -> list[str]:
        """Return a sentence for each failure: runs that learned nothing, and predictions changed by saving."""
        bar, floor = self.data.bar, self.data.floor
        low = f"is not clearly above the floor of {floor:.1%}; it takes {bar:.1%}"
        found = [f"{run.title}: accuracy {run.accuracy:.1%} {low}" for run in self.runs if run.accuracy < bar]
        changed = self.reload.predictions - self.reload.agreeing
        if changed:
            found.append(f"the model loaded from {self.reload.folder} predicts {changed} of the texts differently")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: `runs` by name, and the failures as `problems`."""
        plain = asdict(self)
        plain["data"]["bar"] = self.data.bar
        plain["runs"] = {run.pop("name"): run for run in plain["runs"]}
        return plain | {"problems": self.problems()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that matter for the numbers."""
    return version.versions(LIBRARIES)
