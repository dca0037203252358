"""The optimizers that were made for one model, as long as they are alive."""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import Tensor

from ..core.errors import HybridOptError
from .optimizer import HybridOptimizer

__all__ = ["MadeOptimizers"]


class MadeOptimizers:
    """Holds optimizers weakly, numbered as they were made; copies and pickles of it have none."""

    def __init__(self) -> None:
        self._numbers, self._count = WeakKeyDictionary[HybridOptimizer, int](), 0

    def __reduce__(self) -> tuple:
        return MadeOptimizers, ()

    def __iter__(self) -> Iterator[HybridOptimizer]:
        return iter(self._numbers)

    def numbered(self) -> dict[int, HybridOptimizer]:
        """Return those that are alive by their numbers, the same on all ranks that have made the same ones."""
        return {number: optimizer for optimizer, number in self._numbers.items()}

    def add(self, optimizer: HybridOptimizer) -> None:
        """Note an optimizer that was made."""
        self._numbers[optimizer], self._count = self._count, self._count + 1

    def params(self) -> list[Tensor]:
        """Return the parameters that all of them hold."""
        return [p for optimizer in self for group in optimizer.param_groups for p in group["params"]]

    def unhook(self) -> list[HybridOptimizer]:
        """Remove the hooks of all of them, and return those that had any."""
        return [optimizer for optimizer in self if optimizer.unhook()]

    @contextmanager
    def unhooked(self) -> Iterator[None]:
        """Take their hooks off, for an optimizer that is made within this context; put them back if it is refused."""
        older = self.unhook()
        try:
            yield
        except HybridOptError:
            for optimizer in older:
                optimizer.rehook()
            raise

    def retire(self, why: str) -> None:
        """Let all of them go: every later step of theirs raises `why`."""
        for optimizer in self:
            optimizer.retire(why)
