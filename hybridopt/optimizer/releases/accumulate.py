"""All updates in `step()`."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from ...core.contracts import Clipping, Named, Release, ReleasedParameters
from ._update_all import update_all

__all__ = ["Accumulate"]


class Accumulate(Release):
    """Keep all gradients until `step()` updates everything at once; only those of idle parameters are freed early."""

    name = "accumulate"
    frees_gradients = False

    def __init__(self, clip: Clipping):
        self.clip = clip

    def hold(self) -> AbstractContextManager[None]:
        """Return a context that changes nothing: gradients are always added up."""
        return nullcontext()

    def hooks(self, idles: bool) -> bool:
        """Watch parameters that some windows leave alone: their gradients are freed at once."""
        return idles

    def check(self, work: Iterable[Named]) -> None:
        """Accept any parameters."""

    def gradient_ready(
        self, parameters: ReleasedParameters, name: str, p: Tensor, nonfinite: str, read: bool | None = None
    ) -> None:
        """Drop the gradient of an idle parameter. Arguments as in `Release.gradient_ready`."""
        parameters.drop_idle(name, p)

    def measure(self, parameters: ReleasedParameters, loss: Tensor, nonfinite: str) -> None:
        """Do nothing: all gradients are there when `finish` needs their norm."""

    def finish(self, parameters: ReleasedParameters, nonfinite: str) -> tuple[bool, Tensor | None]:
        """Update everything that is due, or nothing; returns as `Release.finish` does."""
        return update_all(parameters, parameters.due(), self.clip, nonfinite)

    def drop(self) -> None:
        """Do nothing: gradients stay, for `zero_grad`."""

    @property
    def midway(self) -> bool:
        """Return False: no parameter is updated before the others."""
        return False
