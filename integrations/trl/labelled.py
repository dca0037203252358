"""Supervised fine-tuning by TRL: sequences with a label for every token."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from hybridopt.core.contracts import TokenPiece, TrainingJob
from hybridopt.model.losses.linear_cross_entropy import IGNORED

from ..transformers.trained import TrainerTask
from .batched import prepared, with_tokens
from .fused import fuse_

__all__ = ["ASSISTANT", "COMPLETION", "Labelled"]

COMPLETION, ASSISTANT = "completion", "assistant"  # of data.loss_on


class Labelled(TrainerTask):
    """A task of SFTTrainer. Examples that it has prepared once, with tokens and labels, it takes as they are."""

    packs: ClassVar[bool] = True
    reuses: ClassVar[bool] = True

    def kinds(self) -> tuple[type, type]:
        """Return the classes of TRL's trainer and its arguments."""
        from trl import SFTConfig, SFTTrainer

        return SFTTrainer, SFTConfig

    def settings(self, job: TrainingJob) -> dict[str, Any]:
        """Return how long sequences are, and how they are packed."""
        strategy = "bfd_split" if self.keeps_rest else "bfd"
        return {"max_length": job.max_length, "packing": job.packed, "packing_strategy": strategy}

    def trainer(self, job: TrainingJob) -> Any:
        """Return the trainer; examples that it would make into tokens one by one are given to it as tokens."""
        if prepared(job.train) or (on := self.loss_on(job)) == COMPLETION:
            return super().trainer(job)
        given = (job.train, job.eval)
        train, held = (None if rows is None else with_tokens(rows, job.tokenizer, on == ASSISTANT) for rows in given)
        return super().trainer(replace(job, train=train, eval=held))

    def pieces(self, row: Mapping[str, Any], tokenizer: Any) -> list[TokenPiece]:
        """Return the row as one sequence, of which labelled tokens are trained."""
        return [TokenPiece("", row["input_ids"], [label != IGNORED for label in row["labels"]])]

    def fuse_(self, model: Any, device: str) -> None:
        """Let a model that is planned compute its loss in TRL's tiles.

        Args:
            model: on meta.
            device: "cuda" or "cpu".
        """
        fuse_(model, device)
