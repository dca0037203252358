"""Reward models: a score of texts, larger for those that are preferred."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybridopt.core.contracts import TokenPiece, TrainingJob
from hybridopt.core.errors import check_number

from ...transformers.trained import TrainerTask

__all__ = ["Reward"]


@dataclass(frozen=True)
class Reward(TrainerTask):
    """Learn a score that is larger for the preferred of two texts.

    Source: Bradley and Terry 1952, as in Ouyang et al., arXiv 2203.02155.

    Args:
        center_rewards_coefficient: weight of a term that keeps the mean of all scores at zero; None: without it.
    """

    center_rewards_coefficient: float | None = None

    formats: ClassVar[tuple[str, ...]] = ("preference",)
    head: ClassVar[str] = "score"
    sequences: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.center_rewards_coefficient is not None:
            check_number("reward", "center_rewards_coefficient", self.center_rewards_coefficient, 0)

    def kinds(self) -> tuple[type, type]:
        """Return the classes of TRL's trainer and its arguments."""
        from trl import RewardConfig, RewardTrainer

        return RewardTrainer, RewardConfig

    def settings(self, job: TrainingJob) -> dict[str, Any]:
        """Return how long texts may be, and the loss; pairs with a longer text are left out."""
        return {"max_length": job.max_length, "center_rewards_coefficient": self.center_rewards_coefficient}

    def pieces(self, row: Mapping[str, Any], tokenizer: Any) -> list[TokenPiece]:
        """Return both texts."""
        return [TokenPiece(title, row[f"{title}_ids"], ()) for title in ("chosen", "rejected")]
