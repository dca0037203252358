"""Which closures are evaluated at several shifts at once, and why others are not."""

import math
import warnings
from collections.abc import Callable, Hashable, Sequence

from torch import distributed

from ...core.errors import HybridOptWarning
from ...model.placement.placed import placed
from .intact import Intact
from .perturb import Perturbation
from .surroundings import modes_on

__all__ = ["TRIED", "Pairing"]

TRIED = 2  # losses that are compared: an evaluation can spoil those after it, and those before it


class Pairing:
    """Whether evaluations share a pass over layers that are fetched, and come to the same losses in it.

    The first time that a closure's code runs, two of its losses are worked out one after the other as well. Where
    they are others in lockstep, as of a closure that keeps something in a global for a while, it is left at that.

    Args:
        perturbation: knows the model.
    """

    def __init__(self, perturbation: Perturbation):
        self._perturbation = perturbation
        self._proved: dict[Hashable, bool] = {}
        self._told: set[str] = set()

    def allows(self, closures: Hashable, intact: Intact, count: int) -> bool:
        """Return whether evaluations may share a pass; where that would save something and they may not, warn once.

        Args:
            closures: what tells closures of other code apart.
            intact: the state before them.
            count: how many evaluations there are.
        """
        root = self._perturbation.root
        found = None if root is None else placed(root)
        if found is None or count < 2 or not found.placement.paired:
            return False
        if why := _why_not(intact):
            self._tell(why)
        return not why and self._proved.get(closures, True)

    def proved(self, closures: Hashable) -> bool:
        """Return whether these closures are known to give the same losses in lockstep."""
        return self._proved.get(closures, False)

    def prove(
        self, closures: Hashable, found: Sequence[float], together: Callable[[], list[float] | None]
    ) -> list[float] | None:
        """Return the losses of evaluations in lockstep if the first of them are the right ones; else None.

        Args:
            closures: what tells closures of other code apart.
            found: the first losses, worked out one after the other.
            together: works them all out; None: it cannot tell.
        """
        try:
            tried = together()
        except Exception as error:  # one after the other they went well
            tried, why = None, f"they raise {type(error).__name__} otherwise: {error!s:.200}"
        else:
            if tried is None:
                return None
            same = all(map(_same, tried, found))
            tried, why = (tried, "") if same else (None, "the losses are others otherwise")
        self._proved[closures] = not why
        if why:
            self._tell(why)
        return tried

    def _tell(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            warnings.warn(
                f"the losses of a step are worked out one after the other, and each fetches all layers: {why}",
                HybridOptWarning,
                stacklevel=8,
            )


def _why_not(intact: Intact) -> str:
    if distributed.is_available() and distributed.is_initialized():
        return "there are several processes (torch.distributed), which may wait for each other"
    if intact.moving:
        return f"a {intact.moving} in training mode changes its buffers, in the order in which it computes"
    mode = modes_on()
    return f"{mode} is on, which sees the operations of one thread alone" if mode else ""


def _same(one: float, two: float) -> bool:
    return one == two or (math.isnan(one) and math.isnan(two))
