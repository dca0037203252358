"""What PEFT calls the settings of LoRA."""

from collections.abc import Sequence
from typing import Any

from hybridopt.core.errors import check_choice

__all__ = ["arguments"]

HEADS = {"causal": "CAUSAL_LM", "classes": "SEQ_CLS", "score": "SEQ_CLS"}


def arguments(
    alpha: float | None = None,
    targets: str | Sequence[str] = "all-linear",
    dropout: float = 0.0,
    modules_to_save: Sequence[str] = (),
    head: str | None = None,
) -> dict[str, Any]:
    """Return the arguments of a LoraConfig beside its rank.

    Args:
        alpha: updates are multiplied by alpha / rank; None: what PEFT takes.
        targets: "all-linear", or names of modules.
        dropout: of what goes into the adapters.
        modules_to_save: names of modules that are trained in full.
        head: output layer of the model, "causal", "classes" or "score"; None: not said.
    """
    found: dict[str, Any] = {"target_modules": targets if isinstance(targets, str) else list(targets)}
    found |= {} if alpha is None else {"lora_alpha": alpha}
    found |= {"lora_dropout": dropout} if dropout else {}
    found |= {"modules_to_save": list(modules_to_save)} if modules_to_save else {}
    if head is not None:
        check_choice("lora", "head", head, HEADS)
        found["task_type"] = HEADS[head]
    return found
