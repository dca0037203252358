"""Q-GaLore (Zhang et al. 2024): codes of weights and projections, the search for directions, and a step in them."""

import numpy as np

from .frugal import leading
from .rules import Adam

__all__ = ["QGaLore", "dequantize", "grid", "quantize", "searches"]


def grid(values, top):
    """Scale and zero point for the codes 0 ... top of one group; 0 is one of the levels, and both ends are reached."""
    below, above = max(0.0, -float(np.min(values))), max(0.0, float(np.max(values)))
    if below + above == 0:
        return 0.0, 0
    levels = below * top / (below + above)
    zero = np.ceil(levels - 1e-4) if below <= above else np.floor(levels + 1e-4)
    return max(below / zero if zero else 0.0, above / (top - zero) if zero < top else 0.0), zero


def quantize(values, top, size=256):
    """Codes, scales and zero points of the groups, rounded to nearest."""
    flat, codes, grids = np.ravel(values), [], []
    for start in range(0, flat.size, size):
        group = flat[start : start + size]
        scale, zero = grid(group, top)
        codes.append(np.clip(np.rint(group / (scale or 1) + zero), 0, top))
        grids.append((scale, zero))
    return np.concatenate(codes), *map(np.array, zip(*grids, strict=True))


def dequantize(codes, scale, zero, shape, size=256):
    """(code - zero) scale."""
    group = np.arange(codes.size) // size
    return ((codes - zero[group]) * scale[group]).reshape(shape)


def searches(cosines, windows, threshold, memory=5):
    """The windows in which directions are searched, given the cosine that each search but the first would find."""
    found, due, gap, last = [], 0, 1, []
    for window in range(windows):
        if window < due:
            continue
        if found:
            last = [*last, cosines[len(found) - 1]][-memory:]
            if len(last) == memory and np.mean(last) >= threshold:
                gap *= 2
        found.append(window)
        due = window + gap
    return found


class QGaLore:
    """One matrix in float: GaLore whose basis is rounded to 4 bits; the moments stay when it changes."""

    def __init__(self, weight, rank, gap, lr, scale):
        self.weight, self.rank, self.gap, self.lr, self.scale = weight.copy(), rank, gap, lr, scale
        self.adam, self.t = Adam(), 0

    def step(self, g, like):
        """W <- W - lr alpha P N, where N is Adam's direction for P' g and P the rounded basis (or its mirror image).

        like: a basis that lends its signs to the singular vectors.
        """
        if self.t % self.gap == 0:
            self.p = leading(g, self.rank, like)
            self.p.q = dequantize(*quantize(self.p.q, 15), self.p.q.shape)
        self.t += 1
        self.weight = self.weight - self.lr * self.scale * self.p.up(self.adam(self.p.down(g)), g.shape)
