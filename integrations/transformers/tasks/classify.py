"""Classification: to which of several classes a text, or a pair of texts, belongs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybridopt.core.contracts import TokenPiece, TrainingJob

from ..trained import TrainerTask

__all__ = ["Classify"]


@dataclass(frozen=True)
class Classify(TrainerTask):
    """Learn to tell classes of texts, from one label a text; measured by loss and accuracy."""

    formats: ClassVar[tuple[str, ...]] = ("labels",)
    head: ClassVar[str] = "classes"

    def kinds(self) -> tuple[type, type]:
        """Return the classes of transformers' trainer and its arguments."""
        from transformers import Trainer, TrainingArguments

        return Trainer, TrainingArguments

    def settings(self, job: TrainingJob) -> dict[str, Any]:
        """Return nothing: texts are cut when they are made into tokens."""
        return {}

    def examples(self, job: TrainingJob, rows: Any) -> Any:
        """Return the texts as tokens, with the number of their class."""

        def made(row: dict[str, Any]) -> dict[str, Any]:
            texts = [row["text"], *([row["text_pair"]] if row.get("text_pair") is not None else [])]
            tokens = job.tokenizer(*texts, truncation=job.max_length is not None, max_length=job.max_length)
            return {**tokens, "labels": row["label"]}

        return rows.map(made, remove_columns=rows.column_names)

    def given(self, job: TrainingJob) -> dict[str, Any]:
        """Return what measures accuracy."""
        return {} if job.eval is None else {"compute_metrics": accuracy}

    def trainer(self, job: TrainingJob) -> Any:
        """Return the trainer, told that losses of classifiers are means: those of a step's passes are averaged.

        Without that it sums them where the model's `forward` takes any keyword, as if the loss were one of tokens.
        """
        trainer = super().trainer(job)
        trainer.model_accepts_loss_kwargs = False
        return trainer

    def pieces(self, row: Mapping[str, Any], tokenizer: Any) -> list[TokenPiece]:
        """Return the text."""
        return [TokenPiece(f"class {row['labels']}", row["input_ids"], ())]


def accuracy(told: Any) -> dict[str, float]:
    """Return the share of predictions that are right.

    told: predictions [examples, classes] and label_ids [examples].
    """
    return {"accuracy": float((told.predictions.argmax(-1) == told.label_ids).mean())}
