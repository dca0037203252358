"""Supervised fine-tuning: answers to prompts, and turns of chats."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hybridopt.core.contracts import TrainingJob
from hybridopt.core.errors import HybridOptError, check_choice
from hybridopt.training.config.run import AUTO

from ..batched import prepared
from ..labelled import ASSISTANT, COMPLETION, Labelled
from ..turns import is_chat, last_answers, marks_turns

__all__ = ["Sft"]

ALL = "all"


@dataclass(frozen=True)
class Sft(Labelled):
    """Learn to answer as the examples do.

    Args:
        loss_type: "nll", the usual cross entropy, or "dft", which weights it by the token's probability (Dynamic
            Fine-Tuning, arXiv 2508.05629).
    """

    loss_type: str = "nll"

    formats: ClassVar[tuple[str, ...]] = ("messages", "prompt_completion", "text")

    def __post_init__(self) -> None:
        check_choice("sft", "loss_type", self.loss_type, ("nll", "dft"))

    def losses(self, format: str) -> tuple[str, ...]:
        """Return what the loss may be taken on for examples of a format."""
        return {"text": (ALL,)}.get(format, (ALL, COMPLETION, ASSISTANT))

    def loss_on(self, job: TrainingJob) -> str:
        """Return what the loss is taken on: "all", "completion" or "assistant".

        By default all turns of the assistant, where the template can tell them; otherwise the last answer.

        Raises:
            HybridOptError: the assistant's turns are asked for, and nothing marks them.
        """
        asked, row = job.run.data.loss_on, job.train[0]
        if asked == AUTO and "text" in row:
            return ALL
        if asked not in (AUTO, ASSISTANT):
            return asked
        chat, marked = is_chat(row), marks_turns(job.tokenizer)
        if asked == AUTO:
            return ASSISTANT if chat and marked and "messages" in row else COMPLETION
        if not chat:
            raise HybridOptError(
                "data.loss_on='assistant': the examples are no chats but texts; take 'completion' or 'all'"
            )
        if not marked:
            raise HybridOptError(
                "data.loss_on='assistant': the tokenizer's chat template does not mark what the assistant says with "
                "{% generation %}, and is none of those that TRL knows; take 'completion' (the last answer) or "
                "'all', or give a template that does: data.template=chat.jinja"
            )
        return asked

    def settings(self, job: TrainingJob) -> dict[str, Any]:
        """Return how sequences are made, and which of their tokens are learnt."""
        on = ALL if prepared(job.train) else self.loss_on(job)
        masks = {"assistant_only_loss": on == ASSISTANT, "completion_only_loss": on == COMPLETION}
        return super().settings(job) | masks | {"loss_type": self.loss_type}

    def examples(self, job: TrainingJob, rows: Any) -> Any:
        """Return the rows; of chats whose last answer is learnt alone, everything before it as the prompt."""
        splits = "messages" in rows.column_names and not prepared(rows) and self.loss_on(job) == COMPLETION
        return last_answers(rows) if splits else rows
