"""A backward pass that only measures: the size of every gradient, of which none is kept."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ...core.contracts import Named
from ...core.errors import HybridOptError
from ...model.fsdp.sharded_tensors import is_sharded
from ..gradients import reductions

__all__ = ["Measuring"]

Sizes = tuple[Tensor, Tensor]  # the 2-norm of a gradient, and a number in which NaN and infinity show


class Measuring:
    """Sizes of all gradients of a loss, together with those that are held in `.grad`.

    Args:
        work: the parameters, with their names.
    """

    def __init__(self, work: Iterable[Named]):
        self._work = list(work)
        self._held = {n: p.grad for n, p in self._work}
        self._found: dict[str, Sizes] = {}

    def run(self, loss: Tensor) -> None:
        """Run the backward pass of a loss; its graph is kept, and all `.grad` are as before afterwards."""
        sharded = any(is_sharded(p) for _, p in self._work)  # then the graph holds other tensors
        for _, p in self._work:
            p.grad = None
        try:
            with torch.enable_grad():
                loss.backward(retain_graph=True, inputs=None if sharded else [p for _, p in self._work])
            rest = {n: _sizes(g) for n, g in self._held.items() if g is not None and n not in self._found}
        finally:
            for name, p in self._work:
                p.grad = self._held[name]
        self._found |= rest

    def add(self, name: str, p: Tensor) -> None:
        """Measure a gradient that is complete, and free it.

        Args:
            name: of the parameter.
            p: the parameter.
        """
        if name in self._found:
            raise HybridOptError(
                f"{name!r} gets two gradients in one backward pass; checkpoint with use_reentrant=False"
            )
        assert p.grad is not None
        held = self._held.get(name)
        self._found[name], p.grad = _sizes(p.grad if held is None else held + p.grad), None

    def total(self) -> Tensor | None:
        """Return the norm of all gradients, shape []; None where there are none."""
        return reductions.total(self._found[n][0] for n, _ in self._work if n in self._found)

    def not_finite(self) -> str | None:
        """Return the name of the first gradient with NaN or infinity; waits once for every device."""
        return reductions.first_not_finite({name: top for name, (_, top) in self._found.items()})


def _sizes(grad: Tensor) -> Sizes:
    return reductions.norm(grad), reductions.worst(grad)
