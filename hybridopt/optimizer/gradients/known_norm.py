"""A norm of all gradients that a training loop has worked out already, so that nothing is read twice."""

import math
from collections.abc import Iterable, Sequence
from weakref import ref

from torch import Tensor

from ...core.contracts import Named
from ...model.fsdp.sharded_tensors import is_sharded

__all__ = ["KnownNorm"]


class KnownNorm:
    """The norm, and the gradients of which it holds: those tensors, as long as nobody writes to them."""

    def __init__(self) -> None:
        self._norm: Tensor | float = math.nan
        self._of: dict[int, tuple[ref, int]] = {}  # by identity; with its version

    def tell(self, norm: Tensor | float, params: Iterable[Tensor]) -> None:
        """Note a norm.

        Args:
            norm: of the gradients of these parameters at least, shape [] if it is a tensor; it is not read yet.
            params: whose `.grad` are as they were then, or scaled by at most 1.
        """
        grads = [p.grad for p in params if p.grad is not None]
        self._norm = norm
        alone = not (any(map(is_sharded, (norm, *grads))))  # else ranks have to look together, or none
        self._of = {id(x): (ref(x), x._version) for x in grads} if alone else {}

    def forget(self) -> None:
        """Let the norm hold no more."""
        self._of.clear()

    def finite(self, work: Sequence[Named]) -> bool:
        """Return whether it says that all these gradients are finite; False: they have to be read.

        A norm that is not finite says nothing: the squares of finite numbers may be too large for it.
        """
        return bool(self._of) and all(self._holds(p.grad) for _, p in work) and math.isfinite(self._norm)

    def _holds(self, grad: Tensor | None) -> bool:
        known, version = self._of.get(id(grad), (None, 0))
        return known is not None and known() is grad and grad is not None and grad._version == version
