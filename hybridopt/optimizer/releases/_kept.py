"""Gradients that the backward pass could not free, as their weights were still to be read in it."""

import warnings
from collections.abc import Collection

from ...core.contracts import ReleasedParameters
from ...core.errors import HybridOptWarning

__all__ = ["KeptGradients"]

TEXT = (
    "release='fused' has kept most gradients until step(), among them that of {name!r}: weights are read once more "
    "without a gradient (detach()), or somebody keeps a graph (retain_graph) or a view (.data, .detach()) of them. "
    "Updates are right, but take the memory of 'accumulate'"
)


class KeptGradients:
    """Names those of a step, which wait for `step()`; warns once where they are most of all."""

    def __init__(self) -> None:
        self._told = False
        self.begin()

    def begin(self) -> None:
        """Begin a new step."""
        self._names: set[str] = set()

    def add(self, name: str) -> None:
        """Note the gradient of the parameter `name`."""
        self._names.add(name)

    def warn(self, parameters: ReleasedParameters, freed: Collection[str]) -> None:
        """Warn once where most gradients could not be freed: that is what this release is taken for.

        Args:
            parameters: of the optimizer.
            freed: names of those whose gradients were freed in this step.
        """
        if self._told or not self._names:
            return
        kept = {n: p.numel() for n, p in parameters.waiting() if n in self._names}
        if sum(kept.values()) > sum(p.numel() for n, p in parameters.params() if n in freed):
            self._told = True
            warnings.warn(TEXT.format(name=next(iter(kept))), HybridOptWarning, stacklevel=7)
