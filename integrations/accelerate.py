"""What accelerate, and so the transformers `Trainer`, knows about the gradients; nothing is imported for it."""

import sys

__all__ = ["accumulating", "scaling"]


def accumulating() -> bool:
    """Do more micro-batches follow before the optimizer's step?"""
    state = sys.modules.get("accelerate.state")
    return state is not None and not state.GradientState().sync_gradients


def scaling() -> bool:
    """Are losses scaled for fp16?"""
    state = sys.modules.get("accelerate.state")
    return state is not None and state.is_initialized() and state.AcceleratorState().mixed_precision == "fp16"
