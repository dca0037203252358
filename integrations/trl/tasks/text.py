"""Further pre-training: plain texts, every token of which is learnt."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hybridopt.core.contracts import TrainingJob

from ..labelled import Labelled

__all__ = ["FurtherTraining"]


@dataclass(frozen=True)
class FurtherTraining(Labelled):
    """Learn to continue texts. Several share a sequence, and what is longer goes on in the next: nothing is lost."""

    formats: ClassVar[tuple[str, ...]] = ("text",)
    keeps_rest: ClassVar[bool] = True

    def losses(self, format: str) -> tuple[str, ...]:
        """Return what the loss may be taken on."""
        return ("all",)

    def loss_on(self, job: TrainingJob) -> str:
        """Return what the loss is taken on."""
        return "all"

    def settings(self, job: TrainingJob) -> dict[str, Any]:
        """Return how sequences are made."""
        return super().settings(job) | {"completion_only_loss": False}
