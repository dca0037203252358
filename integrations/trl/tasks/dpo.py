"""Direct preference optimization: answers that are preferred to others."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybridopt.core.contracts import TokenPiece, TrainingJob
from hybridopt.core.errors import check_choice, check_number
from hybridopt.training.config.run import Run

from ...transformers.trained import TrainerTask
from ..fused import fuse_
from ..reference import base_as_reference

__all__ = ["Dpo"]

LOSSES = ("sigmoid", "hinge", "ipo", "sigmoid_norm", "apo_zero", "apo_down", "robust", "nca_pair")


@dataclass(frozen=True)
class Dpo(TrainerTask):
    """Make preferred answers more likely, and rejected ones less, than a reference makes them.

    No second copy of the model is kept: with adapters the reference is the model without them, and without adapters
    its log-probabilities are computed once, before training. Source: Rafailov et al., arXiv 2305.18290.

    Args:
        beta: how strongly the reference is kept to.
        loss_type: "sigmoid" as in the paper, or "hinge", "ipo", "sigmoid_norm", "apo_zero", "apo_down", "robust",
            "nca_pair".
        label_smoothing: share of the pairs that are taken to be the wrong way round.
    """

    beta: float = 0.1
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0

    formats: ClassVar[tuple[str, ...]] = ("preference",)
    sequences: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_number("dpo", "beta", self.beta, 0)
        check_choice("dpo", "loss_type", self.loss_type, LOSSES)
        check_number("dpo", "label_smoothing", self.label_smoothing, 0, 0.5, open_end=True)

    def kinds(self) -> tuple[type, type]:
        """Return the classes of TRL's trainer and its arguments."""
        from trl import DPOConfig

        from ..preference import PreferenceTrainer

        return PreferenceTrainer, DPOConfig

    def settings(self, job: TrainingJob) -> dict[str, Any]:
        """Return the loss, and when the reference is computed."""
        run: Run = job.run
        beforehand = run.method.lora is None and not job.rehearsed
        return {
            "max_length": job.max_length,
            "beta": self.beta,
            "loss_type": [self.loss_type],
            "label_smoothing": self.label_smoothing,
            "precompute_ref_log_probs": beforehand,
        }

    def given(self, job: TrainingJob) -> dict[str, Any]:
        """Return a reference for a stand-in, of which there is nothing to compute."""
        return {"ref_model": copy.deepcopy(job.model)} if job.rehearsed else {}

    def trainer(self, job: TrainingJob) -> Any:
        """Return the trainer; it has no copy of the adapters, as the base is the same reference."""
        with base_as_reference(job.model):
            return super().trainer(job)

    def pieces(self, row: Mapping[str, Any], tokenizer: Any) -> list[TokenPiece]:
        """Return the prompt with either answer."""
        before = [False] * len(row["prompt_ids"])
        return [
            TokenPiece(title, row["prompt_ids"] + row[f"{title}_ids"], before + [True] * len(row[f"{title}_ids"]))
            for title in ("chosen", "rejected")
        ]

    def fuse_(self, model: Any, device: str) -> None:
        """Let a model that is planned compute its loss in TRL's tiles.

        Args:
            model: on meta.
            device: "cuda" or "cpu".
        """
        fuse_(model, device)
