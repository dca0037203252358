"""GaLore (Zhao et al. 2024, Algorithm 2): Adam in the leading singular subspace of the gradient."""

from .frugal import leading
from .rules import Adam

__all__ = ["GaLore"]


class GaLore:
    """One matrix; the moments stay when the subspace changes."""

    def __init__(self, weight, rank, gap, lr, scale):
        self.weight, self.rank, self.gap, self.lr, self.scale = weight.copy(), rank, gap, lr, scale
        self.adam, self.t = Adam(), 0

    def step(self, g, like):
        """W <- W - lr alpha P N, where N is Adam's direction for P' g (or the mirror image for tall matrices).

        like: a basis that lends its signs to the singular vectors.
        """
        if self.t % self.gap == 0:
            self.p = leading(g, self.rank, like)
        self.t += 1
        self.weight = self.weight - self.lr * self.scale * self.p.up(self.adam(self.p.down(g)), g.shape)
