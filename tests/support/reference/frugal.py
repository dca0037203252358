"""FRUGAL (Zmushko et al. 2024, Algorithm 1): a state-full rule inside a subspace, a state-free one outside."""

import numpy as np

__all__ = ["Block", "Columns", "Entries", "Frugal", "Left", "Right", "Rows", "leading"]


class Columns:
    """Projection on some columns."""

    def __init__(self, chosen):
        self.chosen = chosen

    def down(self, g):
        """The chosen columns."""
        return g[..., self.chosen]

    def up(self, low, shape):
        """Zeros but for the chosen columns."""
        out = np.zeros(shape, low.dtype)
        out[..., self.chosen] = low
        return out


class Rows:
    """Projection on some rows."""

    def __init__(self, chosen):
        self.chosen = chosen

    def down(self, g):
        """The chosen rows."""
        return g[..., self.chosen, :]

    def up(self, low, shape):
        """Zeros but for the chosen rows."""
        out = np.zeros(shape, low.dtype)
        out[..., self.chosen, :] = low
        return out


class Entries:
    """Projection on some entries, by their position in the flattened matrix."""

    def __init__(self, chosen):
        self.chosen = chosen

    def down(self, g):
        """The chosen entries."""
        return g.reshape(-1)[self.chosen]

    def up(self, low, shape):
        """Zeros but for the chosen entries."""
        out = np.zeros(int(np.prod(shape)), low.dtype)
        out[self.chosen] = low
        return out.reshape(shape)


class Right:
    """Projection g -> g Q on a subspace of the row space."""

    def __init__(self, q):
        self.q = q

    def down(self, g):
        """Coordinates."""
        return g @ self.q

    def up(self, low, shape):
        """Back."""
        return low @ np.swapaxes(self.q, -1, -2)


class Left:
    """Projection g -> Q' g on a subspace of the column space."""

    def __init__(self, q):
        self.q = q

    def down(self, g):
        """Coordinates."""
        return np.swapaxes(self.q, -1, -2) @ g

    def up(self, low, shape):
        """Back."""
        return self.q @ low


class Block:
    """The whole parameter."""

    def down(self, g):
        """Everything."""
        return g

    def up(self, low, shape):
        """Everything."""
        return low


def leading(g, rank, like):
    """Projection on the leading singular vectors of the shorter side, with the signs of `like`, as they have none."""
    u, _, vh = np.linalg.svd(g, full_matrices=False)
    tall = g.shape[-2] >= g.shape[-1]
    q = np.swapaxes(vh, -1, -2)[..., :rank] if tall else u[..., :rank]
    q = q * np.sign((q * like).sum(-2, keepdims=True))
    return Right(q) if tall else Left(q)


class Frugal:
    """One parameter. `full()` makes a state-full rule, `free` is a function of the residual.

    Decoupled weight decay comes first and goes with the plain lr; `free_lr_scale` is the ratio of the two rates.
    """

    def __init__(self, weight, full, free, lr, decay=0.0, free_lr_scale=1.0, lr_scale=1.0):
        self.weight, self.make, self.free = weight.copy(), full, free
        self.lr, self.decay, self.free_scale, self.scale = lr, decay, free_lr_scale, lr_scale
        self.rule, self.projection = full(), None

    def refresh(self, projection, reset=True):
        """A new subspace (None: nothing is state-full)."""
        if reset or projection is None:
            self.rule = self.make()
        self.projection = projection

    def step(self, g):
        """W <- (1 - lr wd) W - lr (P'(full(P(g))) + scale free(g - P'(P(g))))."""
        inside, residual = np.zeros_like(g), g
        if self.projection is not None:
            low = self.projection.down(g)
            residual = g - self.projection.up(low, g.shape)
            inside = self.projection.up(self.rule(low), g.shape)
            if isinstance(self.projection, Columns | Rows | Entries | Block):
                ones = self.projection.up(np.ones_like(low), g.shape)
                residual = np.where(ones == 1, 0, residual)
        outside = self.free(residual)
        self.weight = self.weight * (1 - self.lr * self.decay)
        self.weight = self.weight - self.lr * self.scale * (inside + self.free_scale * outside)
