"""Steps whose gradients all belong to blocks that are not in turn."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.errors import HybridOptWarning

__all__ = ["IdleSteps"]

EMPTY = 3  # steps in a row without any gradient: one may be an accident, or somebody's test


@dataclass
class IdleSteps:
    """What a step without an update was: without any gradient, or the turn of a block that no gradient reaches.

    Args:
        arrived: did the backward pass make gradients that were dropped, as their blocks are not in turn?
        wasted: steps in a row that had no others.
        empty: steps in a row that had none at all.
        told: were these said already?
    """

    arrived: bool = False
    wasted: int = 0
    empty: int = 0
    told: frozenset[str] = frozenset()

    def used(self) -> None:
        """Note a step that updates something."""
        self.arrived, self.wasted, self.empty = False, 0, 0

    def passed(self, gap: int, names: Sequence[str], step: int) -> bool:
        """Count a step that updates nothing, and warn once of a whole window of them.

        Args:
            gap: steps of a window.
            names: of the parameters whose turn it is.
            step: the steps before.

        Returns:
            Whether there were gradients at all, so that it is a step.
        """
        arrived, self.arrived = self.arrived, False
        self.wasted, self.empty = (self.wasted + 1, 0) if arrived else (0, self.empty + 1)
        if self.wasted >= gap > 0:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            self._tell(
                "wasted",
                f"no gradient has reached {', '.join(map(repr, names[:1]))}{more} in the last {self.wasted} steps (up "
                f"to step {step}), while all other blocks waited for their turn. If the data never reaches them (a "
                "tower that is not used, an encoder under no_grad), set their requires_grad to False: then they have "
                "no turns",
            )
        if self.empty >= EMPTY and step:
            self._tell(
                "empty",
                f"step() found no gradient at all {self.empty} times in a row, and did nothing: were the weights "
                "replaced (load_state_dict(assign=True), a swapped layer, another adapter)? Then this optimizer holds "
                "the old ones: make a new one",
            )
        return arrived

    def _tell(self, what, text):
        if what not in self.told:
            self.told |= {what}
            warnings.warn(text, HybridOptWarning, stacklevel=8)
