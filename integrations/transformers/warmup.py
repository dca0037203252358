"""Schedules of the learning rate that rise from the first step on, where those of transformers begin with 0."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

__all__ = ["FirstStepCounts", "FirstStepWarmup"]

CONSTANT = "constant"  # the one schedule that has no warm-up, whatever is asked for

if TYPE_CHECKING:
    Mixed: TypeAlias = Trainer  # with which the mixin is mixed: what it calls is there
else:
    Mixed = object


class FirstStepWarmup(LambdaLR):
    """A schedule of which step s = 0, 1 ... of `warmup` has the rate (s + 1) / warmup; transformers' has s / warmup.

    Args:
        optimizer: whose rates are set.
        rates: of every group of parameters: the factor of its rate in a step from `warmup` on.
        warmup: steps in which the rate rises, at least 1.
        steps: of the whole run.
    """

    def __init__(self, optimizer: Optimizer, rates: list[Callable[[int], float]], warmup: int, steps: int):
        self.warmup, self.steps, self.ahead = warmup, steps, True
        super().__init__(optimizer, rates)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of every group of parameters in the step that comes next."""
        all_of_it = self.warmup >= self.steps  # after such a run there is no fall, by whose length to divide
        if self.ahead and (all_of_it or self.last_epoch < self.warmup):
            share = min((self.last_epoch + 1) / self.warmup, 1.0)
            return [base * share for base in self.base_lrs]
        return super().get_lr()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as a checkpoint says; one of a version whose first step had the rate 0 goes on as it began.

        state: as `state_dict` returns it.
        """
        super().load_state_dict({"ahead": False} | state)


class FirstStepCounts(Mixed):
    """Makes any Trainer learn in its first step, whatever the warm-up."""

    lr_scheduler: Any

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Return the schedule that the arguments say, with a warm-up that begins above 0.

        Args:
            num_training_steps: of the run.
            optimizer: of the run; None: the Trainer's own.
        """
        is_new = self.lr_scheduler is None
        made: Any = super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps)
        if is_new and warmup and self.args.lr_scheduler_type != CONSTANT:
            made = FirstStepWarmup(made.optimizer, made.lr_lambdas, warmup, num_training_steps)
            self.lr_scheduler = made
        return made
