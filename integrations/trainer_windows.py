"""Say where windows of a policy are longer than a Trainer's run."""

import warnings
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hybridopt.core.errors import HybridOptWarning
from hybridopt.model.containers import contained
from hybridopt.policy.late_windows import late_windows, slow_densities
from hybridopt.strategy import Strategy

__all__ = ["WindowsCheck"]


class WindowsCheck(TrainerCallback):
    """Warns when training begins, as the number of steps is known then, of what it does not reach."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the policy of the model that is trained, if it has one.

        Args:
            args: the Trainer's.
            state: the Trainer's; tells how many steps there will be.
            control: the Trainer's.
            model: that is trained.
            kwargs: the Trainer's.
        """
        found = {} if model is None else contained(model).__dict__
        strategy = found.get("hybrid")
        if isinstance(strategy, Strategy) and state.max_steps > 0:
            plan, steps = strategy.resolved(), state.max_steps
            for text in (*map(str, late_windows(plan, steps)), *slow_densities(plan, steps)):
                warnings.warn(text, HybridOptWarning, stacklevel=2)
