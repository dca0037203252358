"""The side of an optimizer to which losses are told, as its users see it."""

from typing import Any

from torch import Tensor

from ..core.errors import HybridOptError
from .loss_windows import LossWindows
from .parameters import Parameters

__all__ = ["Observing"]


class Observing:
    """Windows that follow the loss, of policies that have such."""

    param_groups: list[dict[str, Any]]
    _pace: LossWindows | None
    _parameters: Parameters
    _told_later: bool

    @property
    def watches(self) -> bool:
        """Whether the policy goes by the loss, so that `observe` has to be told of it."""
        return self._pace is not None

    def observe(self, loss: float | Tensor) -> None:
        """Tell the loss of a batch, before its backward pass: for policies whose windows follow it (`adafrugal`).

        The mean of all that were told in a window counts, of all ranks that train the model; a tensor is read
        when the window ends. `step(closure)` and `HybridTrainer` tell it by themselves. Other policies take no notice.
        Raises HybridOptError for what is no number.
        """
        if self._pace is not None:
            self._pace.observe(loss)

    def _check_observed(self) -> None:
        """Raise HybridOptError, before a weight is changed, if windows follow a loss that nobody has told."""
        if self._pace is None or self._told_later or not self._pace.blind(self._parameters.step):
            return
        if any(float(group["lr"]) for group in self.param_groups) and self._parameters.waiting():
            since = self._parameters.step - self._pace.begins[-2]
            raise HybridOptError(
                "the windows of this policy grow while the loss stalls, and no loss was told in the last "
                f"{since} steps: call optimizer.observe(loss) before loss.backward(), or optimizer.step(closure); "
                "HybridTrainer tells it by itself. With gap=None, as in policy 'frugal', windows need no loss"
            )
