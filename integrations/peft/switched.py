"""Which adapters of a model are switched on, and which parameters of theirs require gradients."""

from collections.abc import Sequence
from typing import Any

from . import tree

__all__ = ["switch"]


def switch(model: Any, adapters: Sequence[str], active: Sequence[str], is_trainable: bool) -> None:
    """Switch adapters on, and all others off.

    Args:
        model: a PeftModel, or one that adapters were injected into.
        adapters: names of all adapters on it.
        active: those to be switched on.
        is_trainable: whether these require gradients; the others never do.
    """
    if tree.is_injected(model):
        from peft.functional import set_adapter, set_requires_grad

        set_requires_grad(model, list(adapters), False)
        set_adapter(model, list(active) if len(active) > 1 else active[0], inference_mode=not is_trainable)
        return
    model.set_requires_grad(list(adapters), False)  # set_adapter forgets the modules_to_save of adapters loaded before
    model.set_adapter(active[0], inference_mode=not is_trainable)
    if len(active) > 1:
        model.base_model.set_adapter(list(active), inference_mode=not is_trainable)
