"""A wrapped model whose trained linear layers keep a part of their inputs."""

from collections.abc import Iterable

from torch.optim import Optimizer

from .core.contracts import Activations
from .model.activations.kept_inputs import KeptInputs
from .model.activations.linear import put_, removed_
from .model.activations.scheme import read_activations
from .wrapped import WithOrigin

__all__ = ["Activated"]


class Activated(WithOrigin):
    """A model with its origin, and what its trained linear layers keep of their inputs; see WithOrigin."""

    _kept: KeptInputs | None = None
    _optimizers: Iterable[Optimizer]

    @property
    def activations(self) -> Activations | None:
        """What trained linear layers keep of their inputs until the backward pass; None: everything."""
        return None if self._kept is None else self._kept.scheme

    def keep_activations(self, scheme: str | Activations | None) -> None:
        """Let trained linear layers keep from now on what `scheme` says, given as to `wrap`; None: everything."""
        scheme = read_activations(scheme, "keep_activations")
        removed_(self.model)
        self._kept = None if scheme is None else KeptInputs(scheme, self.seed)
        if self._kept is not None:
            put_(self.model, self._kept)
            for optimizer in self._optimizers:
                self._kept.follow(optimizer)

    def _follow(self, optimizer: Optimizer) -> None:
        """Count the steps of a new optimizer, and look for linear layers that are new."""
        if self._kept is not None:
            put_(self.model, self._kept)
            self._kept.follow(optimizer)
