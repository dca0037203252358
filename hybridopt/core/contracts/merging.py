"""What merging saved adapters into their base is asked for."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

__all__ = ["Merging"]


class Merging(Protocol):
    """Saved adapters merged into the tensors of their base, one layer at a time."""

    @property
    @abstractmethod
    def names(self) -> set[str]:
        """The names of all tensors of the base that change, also of those that share one."""

    @abstractmethod
    def groups(self, name: str) -> list[list[str]]:
        """Return the names that a tensor of the base shares, in groups of the same values after merging."""

    @abstractmethod
    def value(self, name: str, source: Callable[[str], Tensor]) -> Tensor:
        """Return a tensor of the base with the active adapters merged into it, computed in float32.

        Args:
            name: of the tensor.
            source: returns a tensor of the base without adapters.
        """
