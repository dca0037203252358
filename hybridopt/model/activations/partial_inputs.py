"""Inputs of a model's trained linear layers, kept in part, as a scheme says that can be changed at any time."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from ...core.contracts import Activations
from .kept_inputs import KeptInputs
from .linear import put_, removed_
from .scheme import read_activations

__all__ = ["PartialInputs"]


class PartialInputs:
    """What the trained linear layers of one model keep of their inputs until the backward pass; at first everything.

    model: has the layers.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._kept: KeptInputs | None = None

    @property
    def scheme(self) -> Activations | None:
        """What is kept; None: everything."""
        return None if self._kept is None else self._kept.scheme

    def use(self, scheme: str | Activations | None, seed: int, optimizers: Iterable[Optimizer]) -> None:
        """Keep from now on what a scheme says.

        Args:
            scheme: as `wrap` takes it; None: everything is kept.
            seed: of its random choices.
            optimizers: whose steps are counted for them.
        """
        scheme = read_activations(scheme, "keep_activations")
        removed_(self._model)
        self._kept = None if scheme is None else KeptInputs(scheme, seed)
        if self._kept is not None:
            put_(self._model, self._kept)
            for optimizer in optimizers:
                self._kept.follow(optimizer)

    def follow(self, optimizer: Optimizer) -> None:
        """Count the steps of a new optimizer, and look for linear layers that are new."""
        if self._kept is not None:
            put_(self._model, self._kept)
            self._kept.follow(optimizer)
