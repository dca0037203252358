"""What accelerate knows about losses and gradients; nothing is imported for it."""

import sys
from dataclasses import dataclass

from hybridopt.core.contracts import Launcher

__all__ = ["AccelerateLauncher"]


@dataclass(frozen=True)
class AccelerateLauncher(Launcher):
    """accelerate's own state, as it is in this process."""

    def scaling(self) -> bool:
        """Return whether accelerate was started with mixed_precision="fp16"."""
        state = sys.modules.get("accelerate.state")
        return state is not None and state.is_initialized() and state.AcceleratorState().mixed_precision == "fp16"

    def accumulating(self) -> bool:
        """Return whether accelerate is in a micro-batch after which no gradients are synchronized."""
        state = sys.modules.get("accelerate.state")
        return state is not None and not state.GradientState().sync_gradients
