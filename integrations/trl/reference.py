"""The reference that some of TRL's trainers compare a model with."""

from typing import Any

__all__ = ["forget_reference_"]

NAME = "ref"


def forget_reference_(model: Any) -> None:
    """Take away the copy of new adapters that TRL adds as a reference.

    New adapters change nothing, so the base is the same reference, and TRL takes it where there is no copy.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel) and NAME in model.peft_config:
        model.delete_adapter(NAME)
