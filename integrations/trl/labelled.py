"""Supervised fine-tuning by TRL: sequences with a label for every token."""

from collections.abc import Mapping
from typing import Any, ClassVar

from hybridopt.core.contracts import TokenPiece, TrainingJob

from ..transformers.trained import TrainerTask
from .fused import fuse_

__all__ = ["Labelled"]

IGNORED = -100


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
