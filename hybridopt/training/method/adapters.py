"""Adapters as a run asks for them, made by the library that is usual."""

from typing import Any

from ...model.adapters import usual_library
from ..config.run import LoraSettings

__all__ = ["adapters"]


def adapters(lora: LoraSettings, head: str) -> Any:
    """Return the configuration of new adapters.

    Args:
        lora: what is asked for.
        head: the model's output layer: "causal", "classes" or "score".
    """
    return usual_library().make_config(
        lora.r,
        alpha=2 * lora.r if lora.alpha is None else lora.alpha,
        targets=lora.targets,
        dropout=lora.dropout,
        modules_to_save=lora.modules_to_save,
        head=head,
    )
