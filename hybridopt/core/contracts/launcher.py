"""What a launcher of training loops is asked for."""

from abc import abstractmethod
from typing import Any, Protocol

__all__ = ["Launcher"]


class Launcher(Protocol):
    """What the library that runs the training loop does to losses and gradients, if it is in use at all."""

    @abstractmethod
    def scaling(self) -> bool:
        """Return whether losses are multiplied by a scale, as for fp16."""

    @abstractmethod
    def accumulating(self) -> bool:
        """Return whether more micro-batches follow before the optimizer's step."""

    def attend(self, groups: list[dict[str, Any]]) -> None:
        """Look for the loop that runs an optimizer; called once, before the first of its gradients is used or kept.

        groups: its `param_groups`, the very list.
        """
        return None

    def clipping(self, groups: list[dict[str, Any]]) -> str | None:
        """Return the setting by which the loop clips gradients between the backward pass and the step; None without.

        groups: the `param_groups` of the optimizer that is asked about, the very list.
        """
        return None

    def backward_only(self, groups: list[dict[str, Any]]) -> str | None:
        """Return who runs an optimizer by backward passes alone, so that probes are never made; None: nobody does.

        groups: the `param_groups` of the optimizer that is asked about, the very list.
        """
        return None
