"""The three ways in which the demo trains the same model on the same batches."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["SETUPS", "Setup"]


@dataclass(frozen=True)
class Setup:
    """One way to train. Learning rates were chosen with modules held out of the training set, not with the test set.

    Args:
        name: in the JSON of results.
        title: in tables.
        lr: peak learning rate.
        wrap: arguments for `hybridopt.wrap`.
        rank: of LoRA; 0: no adapters.
    """

    name: str
    title: str
    lr: float
    wrap: dict[str, Any] = field(default_factory=dict)
    rank: int = 0

    def options(self) -> dict[str, Any]:
        """Return the arguments for `hybridopt.wrap`, with the LoRA configuration if there is a rank."""
        return self.wrap | ({"peft_config": _lora(self.rank)} if self.rank else {})


# Four windows in the 64 steps of a run: every column is state-full in one of them.
FRUGAL = {"policy": "frugal", "density": 0.25, "split": "columns", "update_gap": 16}

SETUPS = (
    Setup("adamw", "AdamW, full", 5e-4, {"policy": "adamw"}),
    Setup("frugal", "FRUGAL, full", 5e-4, FRUGAL),
    Setup("frugal-lora-nf4", "FRUGAL, LoRA + nf4", 3e-3, FRUGAL | {"quantization": "nf4"}, rank=16),
)


def _lora(rank: int) -> object:
    """Configure LoRA on every linear layer but the classifier, which is new and trained in full."""
    from peft import LoraConfig, TaskType

    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        modules_to_save=["classifier"],
        task_type=TaskType.SEQ_CLS,
    )
