"""Group relative policy optimization: answers of the model's own, rated by a function."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybridopt.core.contracts import TokenPiece, TrainingJob
from hybridopt.core.errors import HybridOptError, check_count, check_number
from hybridopt.core.launch_environment import world
from hybridopt.training.config.run import Run

from ...transformers.trained import TrainerTask
from ..answers import let_answer_
from ..fused import fuse_
from ..reference import base_as_reference
from ..rewards import check_name, function_of
from ..turns import is_chat

__all__ = ["Grpo"]


@dataclass(frozen=True)
class Grpo(TrainerTask):
    """Make answers more likely that a function rates above the others to the same prompt.

    Source: Shao et al., arXiv 2402.03300; the loss is TRL's default.

    Args:
        reward: the function, package.module:function; it is called with prompts=, completions= and the columns of the
            data, and returns a number for each completion. It is code, so it needs --allow-code.
        num_generations: answers to each prompt.
        max_completion_length: tokens of an answer at most.
        temperature: of sampling.
        beta: weight of the distance to the model as it was; above 0 only with adapters.
    """

    reward: str = ""
    num_generations: int = 8
    max_completion_length: int = 256
    temperature: float = 1.0
    beta: float = 0.0

    formats: ClassVar[tuple[str, ...]] = ("prompt",)
    cuts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_name(self.reward)
        check_count("grpo", "num_generations", self.num_generations, 2)
        check_count("grpo", "max_completion_length", self.max_completion_length, 1)
        check_number("grpo", "temperature", self.temperature, 1e-6)
        check_number("grpo", "beta", self.beta, 0)

    @property
    def code(self) -> str | None:
        """Return the name of the reward function."""
        return self.reward

    @property
    def more_tokens(self) -> int:
        """Return how many tokens an answer has at most."""
        return self.max_completion_length

    def check(self, run: Run, format: str) -> None:
        """Raise HybridOptError for a run of which the trainer could not do all that is asked.

        Args:
            run: what is asked.
            format: of the examples.
        """
        super().check(run, format)
        answers = run.train.batch * run.train.accumulate * world().size
        if answers % self.num_generations:
            raise HybridOptError(
                f"grpo: train.batch x train.accumulate x processes = {answers} answers a step are no multiple of "
                f"num_generations={self.num_generations}; write train.accumulate: {self.num_generations} or another "
                "multiple"
            )
        if self.beta and run.method.lora is None:
            raise HybridOptError(
                f"grpo: beta={self.beta} needs the model as it was, a second copy of all weights; take method.lora, "
                "or task_options.beta: 0"
            )

    def kinds(self) -> tuple[type, type]:
        """Return the classes of TRL's trainer and its arguments."""
        from trl import GRPOConfig, GRPOTrainer

        return GRPOTrainer, GRPOConfig

    def settings(self, job: TrainingJob) -> dict[str, Any]:
        """Return how answers are made, and the loss."""
        return {
            "num_generations": self.num_generations,
            "max_completion_length": self.max_completion_length,
            "temperature": self.temperature,
            "beta": 0.0 if job.rehearsed else self.beta,  # with another, a stand-in's reference would be looked for
            "per_device_eval_batch_size": self.num_generations,
        }

    def given(self, job: TrainingJob) -> dict[str, Any]:
        """Return the function that rates answers."""
        return {"reward_funcs": function_of(self.reward)}

    def trainer(self, job: TrainingJob) -> Any:
        """Return the trainer; it has no copy of the adapters, as the base is the same reference."""
        let_answer_(job.model)
        with base_as_reference(job.model):
            return super().trainer(job)

    def pieces(self, row: Mapping[str, Any], tokenizer: Any) -> list[TokenPiece]:
        """Return the prompt."""
        prompt = row["prompt"]
        if is_chat(row):
            made = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
        else:
            made = tokenizer(prompt)
        return [TokenPiece("prompt", made["input_ids"], ())]

    def fuse_(self, model: Any, device: str) -> None:
        """Let a model that is planned compute its loss in TRL's tiles.

        Args:
            model: on meta.
            device: "cuda" or "cpu".
        """
        fuse_(model, device)
