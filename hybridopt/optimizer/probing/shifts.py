"""Which parameters of an optimizer probes shift, how far and in which direction, and what slopes make of it."""

from collections.abc import Sequence

from torch import Tensor

from ...core.contracts import Noise
from ...core.errors import HybridOptError
from ...execution.sharded.rows import elements_before
from ..windows.resolved import Resolved
from ..windows.windows import Windows
from .draws import Noises

__all__ = ["Shifts"]


class Shifts:
    """The parameters of an optimizer as probes see them.

    Args:
        windows: the parameters, as they are trained now.
        trainable: names that probes train although they have requires_grad=False.
    """

    def __init__(self, windows: Windows, trainable: frozenset[str]):
        self._windows, self._trainable = windows, trainable
        self.noises = Noises(windows)

    def probed(self) -> list[Resolved]:
        """Return the parameters that take a gradient from probes, or a part of it."""
        return [one for one in self._windows.all() if one.probed]

    def check_trained(self) -> None:
        """Raise HybridOptError if no parameter is left that probes could train."""
        probed = self.probed()
        if all(self.frozen(one) for one in probed):
            raise HybridOptError(
                f"nothing to train by probes: {probed[0].name!r} and all others have requires_grad=False; set it to "
                "True for those that probes should train, or let hybridopt.wrap(model, policy=...) make the optimizer"
            )

    def prepare(self, samples: int) -> None:
        """Work out what the `samples` directions of small parameters have in common beforehand."""
        self.noises.prepare([one for one in self.probed() if not self._rests(one)], samples)

    def shift(self, name: str, p: Tensor, index: int) -> tuple[float, Noise] | None:
        """Return how far and along which direction probes shift a parameter.

        Args:
            name: of the parameter.
            p: the parameter.
            index: which of the step's directions, from 0.

        Returns:
            eps and the direction; None where the parameter is not shifted.
        """
        one = self._windows.of(name, p)
        noise = None if self._rests(one) else self.noises.of(one, index)
        return None if noise is None else (one.job.treatment.source.eps, noise)

    def before(self, name: str, p: Tensor) -> int:
        """Return how many elements of a parameter lie on ranks before this one; 0 if it is not sharded.

        Args:
            name: of the parameter.
            p: the parameter.
        """
        share = self._windows.of(name, p).share
        return 0 if share is None else elements_before(share.rows, tuple(p.shape))

    def sgd_step(self, name: str, p: Tensor, slopes: Sequence[float]) -> tuple[float, Noise] | None:
        """Return the step that plain SGD would make along the first direction.

        Args:
            name: of the parameter.
            p: the parameter.
            slopes: change of the loss along every direction of the step.

        Returns:
            Its length, learning rate times weight, and its direction; None where the parameter is left alone.
        """
        one = self._windows.of(name, p)
        terms = self.terms(one, slopes)
        return (_rate(one) * terms[0][0], terms[0][1]) if terms else None

    def terms(self, one: Resolved, slopes: Sequence[float]) -> tuple[tuple[float, Noise], ...]:
        """Return (weight, direction) of everything that a parameter's gradient has of directions.

        slopes: change of the loss along every direction of the step.
        """
        return () if self._rests(one) else self.noises.terms(one, slopes)

    def _rests(self, one):
        """Tell whether it stands still whatever is measured; then it is not shifted either, which would add noise."""
        return one.idle or self.frozen(one)

    def frozen(self, one: Resolved) -> bool:
        """Tell whether its owner froze it; `wrap` itself switches off requires_grad where only probes train."""
        return not one.p.requires_grad and (one.backward or one.name not in self._trainable)


def _rate(one: Resolved) -> float:
    """Return the learning rate of a whole parameter, or of its state-free part where it has one."""
    t = one.job.treatment
    return float(one.group["lr"]) * t.lr_scale * (1.0 if t.tag == "state-full" else t.free_lr_scale)
