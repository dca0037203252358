"""What is kept of inputs that several layers have in common, such as queries, keys and values of attention."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

__all__ = ["SharedInputs"]


class SharedInputs:
    """Remembers what was kept of the inputs that are still alive; it keeps nothing alive itself."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[TensorWeakRef, tuple[Any, ...], list[TensorWeakRef]]] = {}

    def find(self, x: Tensor, dtype: torch.dtype) -> Sequence[Tensor] | None:
        """Return what was kept of this very tensor in this dtype; None if nothing was, or it was changed since."""
        known = self._known.get(id(x))
        if known is None or known[0]() is not x or known[1] != (x._version, dtype):
            return None
        kept = [ref() for ref in known[2]]
        return None if any(each is None for each in kept) else [each for each in kept if each is not None]

    def note(self, x: Tensor, dtype: torch.dtype, kept: Sequence[Tensor]) -> None:
        """Remember what was kept of a tensor, and forget of those that are gone.

        Args:
            x: the tensor.
            dtype: in which floats are kept.
            kept: of it.
        """
        self._known = {key: known for key, known in self._known.items() if known[0]() is not None}
        self._known[id(x)] = TensorWeakRef(x), (x._version, dtype), [TensorWeakRef(each) for each in kept]

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedInputs":
        return SharedInputs()

    def __reduce__(self) -> tuple[type["SharedInputs"], tuple[()]]:
        return SharedInputs, ()
