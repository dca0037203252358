"""What Lightning's trainers do to losses and gradients; nothing is imported for it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

from hybridopt.core.contracts import Launcher

from ..clipping import refuse_clipping
from ..live_objects import living

__all__ = ["LightningLauncher"]

TRAINERS = ("lightning.pytorch.trainer.trainer", "pytorch_lightning.trainer.trainer")


@dataclass(frozen=True)
class LightningLauncher(Launcher):
    """Lightning's trainers that run optimizers of this library, each found when its first gradient arrives."""

    found: list[ref[Any]] = field(default_factory=list, compare=False)

    def attend(self, groups: list[dict[str, Any]]) -> None:
        """Remember the trainer that runs the optimizer of these param groups."""
        there = [*filter(None, (known() for known in self.found)), *_trainers(groups)]
        self.found[:] = map(ref, {id(trainer): trainer for trainer in there}.values())

    def scaling(self) -> bool:
        """Return whether a trainer that trains has precision="16-mixed" on a GPU."""
        return bool(self.found) and any(  # asked for every gradient, as the next
            vars(trainer.precision_plugin).get("scaler") is not None for trainer in self._training()
        )

    def accumulating(self) -> bool:
        """Return whether a trainer is in a micro-batch (`accumulate_grad_batches`) after which no step follows."""
        return bool(self.found) and any(
            trainer.lightning_module.automatic_optimization and trainer.fit_loop.epoch_loop._should_accumulate()
            for trainer in self._training()
        )

    def clipping(self, groups: list[dict[str, Any]]) -> str | None:
        """Return the gradient_clip_val of the trainer that runs the optimizer of these param groups.

        Later calls of `self.clip_gradients` in the module are refused, as its trainer carries them out.
        """
        limits = []
        for trainer in _trainers(groups):
            refuse_clipping(trainer.precision_plugin, "clip_gradients", groups)
            limits.append(trainer.gradient_clip_val)
        limit = next(filter(None, limits), None)
        return None if limit is None else f"gradient_clip_val={limit}"

    def _training(self) -> Iterator[Any]:
        return (trainer for known in self.found if (trainer := known()) is not None and trainer.training)


def _trainers(groups: list[dict[str, Any]]) -> Iterator[Any]:
    """Find the trainers of the optimizer of these param groups, which it knows nothing of, among all objects."""
    for module in TRAINERS:
        for one in living(module, "Trainer"):
            try:
                optimizers = one.strategy.optimizers
            except AttributeError:  # of a trainer that failed in the making
                continue
            if any(optimizer.param_groups is groups for optimizer in optimizers):
                yield one
