"""A subspace that is looked for less and less often while it stands still."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity

from ...core.contracts import Slot
from ._int4 import Int4Basis
from ._subspace import Subspace

__all__ = ["Lazy"]

MEMORY = 5  # of the last searches


@dataclass(frozen=True)
class Lazy:
    """Windows between two searches double while the leading direction moves little (Q-GaLore, Zhang et al. 2024, 3.3).

    The sign of a singular vector means nothing, so cosines count by their size.
    """

    inner: Subspace | Int4Basis
    threshold: float
    carries = True
    disjoint = False
    covers = False

    @property
    def local(self):
        """As without patience."""
        return self.inner.local

    def shape(self, full):
        """As without patience."""
        return self.inner.shape(full)

    def slots(self, full):
        """The basis, the last cosines, and a clock: window of the next search, windows between two, searches made."""
        own = {"cosine": Slot((MEMORY,), exact=True), "clock": Slot((3,), torch.int64, exact=True)}
        return self.inner.slots(full) | own

    def sample(self, grad, basis, draw):
        """A search if it is due, and the time of the next."""
        due, gap, count = basis["clock"].tolist()
        if draw.window < due:
            return
        old = self.inner.first(grad, basis).clone() if count else None
        self.inner.sample(grad, basis, draw)
        if old is None:
            gap = 1
        else:
            new = self.inner.first(grad, basis)
            basis["cosine"][(count - 1) % MEMORY] = cosine_similarity(old, new, -1).abs().mean()
            gap *= 2 if count >= MEMORY and basis["cosine"].mean() >= self.threshold else 1
        basis["clock"].copy_(torch.tensor([draw.window + gap, gap, count + 1]))

    def down(self, x, basis):
        """As without patience."""
        return self.inner.down(x, basis)

    def rest(self, x, basis):
        """As without patience."""
        return self.inner.rest(x, basis)

    def up_(self, out, x, basis):
        """As without patience."""
        return self.inner.up_(out, x, basis)
