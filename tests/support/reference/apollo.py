"""APOLLO (Zhu et al. 2024, Algorithm 1) and the hash from which its projections come, in plain NumPy."""

import numpy as np

from .rules import Adam

__all__ = ["Apollo", "normal"]

GOLDEN = 0x9E3779B97F4A7C15


def normal(shape, key, turn):
    """N(0, 1) by Box & Muller (1958) from two times 24 bits of one hash."""
    position = np.arange(np.prod(shape), dtype=np.uint64)
    z = _splitmix(position * np.uint64(GOLDEN) + _splitmix(np.uint64((key + (turn + 1) * GOLDEN) % (1 << 64))))
    size, angle = ((z >> np.uint64(shift) & np.uint64(0xFFFFFF)).astype(np.float64) for shift in (40, 16))
    return (np.sqrt(-2 * np.log((size + 1) / 2**24)) * np.cos(2 * np.pi * angle / 2**24)).reshape(shape)


def _splitmix(z):
    """Steele et al. 2014, without the counter's step."""
    with np.errstate(over="ignore"):
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return z ^ z >> np.uint64(31)


class Apollo:
    """One matrix. Wide matrices are projected as they are, tall ones turned over."""

    def __init__(self, rank, gap, key, scale=1.0, tensor=False, limiter=1.01, eps=1e-6):
        self.rank, self.gap, self.key, self.scale, self.tensor = rank, gap, key, scale, tensor
        self.limiter, self.adam, self.t, self.last = limiter, Adam(eps=eps), 0, None

    def __call__(self, g):
        """sqrt(alpha) G diag(s), limited."""
        if g.shape[0] > g.shape[1]:
            return self(g.T).T
        p = normal((g.shape[0], self.rank), self.key, self.t // self.gap).T / np.sqrt(self.rank)  # N(0, 1 / rank)
        self.t += 1
        r = p @ g
        adapted = self.adam(r)
        axis = None if self.tensor else 0
        s = np.linalg.norm(adapted, axis=axis) / np.linalg.norm(r, axis=axis)
        return np.sqrt(self.scale) * self.limit(g * s)

    def limit(self, u):
        """Fira (Chen et al. 2024): no norm above `limiter` times the one before."""
        norm = np.linalg.norm(u)
        if self.limiter and self.last is not None and norm > self.limiter * self.last:
            u, norm = u * (self.limiter * self.last / norm), self.limiter * self.last
        self.last = norm
        return u
