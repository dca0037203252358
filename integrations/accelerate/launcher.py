"""What accelerate, and the Trainer that stands on it, know about losses and gradients; nothing is imported for it."""

import sys
from dataclasses import dataclass
from typing import Any

from hybridopt.core.contracts import Launcher

from ..clipping import refuse_clipping
from ..live_objects import living

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

    def clipping(self, groups: list[dict[str, Any]]) -> str | None:
        """Return the max_grad_norm of the transformers Trainer that runs the optimizer of these param groups.

        No Trainer tells its optimizer that it runs it: it is looked for among all objects of the process. Calls of an
        Accelerator's own clipping, which a loop may make later, are refused from now on.
        """
        for accelerator in _accelerators(groups):
            refuse_clipping(accelerator, "clip_grad_norm_", groups)
            refuse_clipping(accelerator, "clip_grad_value_", groups)
        norm = next((t.args.max_grad_norm for t in _trainers(groups) if t.args.max_grad_norm), None)
        return None if norm is None else f"max_grad_norm={norm}"

    def backward_only(self, groups: list[dict[str, Any]]) -> str | None:
        """Return the class of the transformers Trainer that runs an optimizer, unless it is one that probes."""
        ours = sys.modules.get("hybridopt.integrations.trainer")
        plain = [t for t in _trainers(groups) if ours is None or not isinstance(t, ours.HybridTrainerMixin)]
        return type(plain[0]).__name__ if plain else None


def _trainers(groups: list[dict[str, Any]]) -> list[Any]:
    """Return the transformers Trainers that run the optimizer of these param groups."""
    trainers = living("transformers.trainer", "Trainer")
    held = [(t, vars(t).get("optimizer")) for t in trainers]  # which a Trainer that failed in the making lacks
    return [t for t, optimizer in held if optimizer is not None and optimizer.param_groups is groups]


def _accelerators(groups: list[dict[str, Any]]) -> list[Any]:
    """Return the Accelerators that have prepared the optimizer of these param groups."""
    every = living("accelerate.accelerator", "Accelerator")
    return [one for one in every if any(made.param_groups is groups for made in vars(one).get("_optimizers", ()))]
