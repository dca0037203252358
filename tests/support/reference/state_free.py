"""Normalisations of one gradient, as their papers state them, in plain NumPy."""

import numpy as np

from .muon import Muon

__all__ = ["column_norm", "sinkhorn", "whiten"]


def sinkhorn(g, rounds):
    """Scetbon et al. 2025, Algorithm 3: rows to l2 norm sqrt(n), then columns to sqrt(m)."""
    m, n = g.shape
    for _ in range(rounds):
        g = np.sqrt(n) * g / np.linalg.norm(g, axis=1, keepdims=True)
        g = np.sqrt(m) * g / np.linalg.norm(g, axis=0, keepdims=True)
    return g


def column_norm(g, axis):
    """Glentis et al. 2025, Algorithm 1: every line along `axis` over its norm, times the root of its entries."""
    return np.sqrt(g.shape[axis]) * g / np.linalg.norm(g, axis=axis, keepdims=True)


def whiten(g, rows, steps):
    """Ma et al. 2024, Algorithm 1, with the size of a matrix of signs; rows: "rms", "standard" or "none"."""
    if rows == "standard":
        g = (g - g.mean(1, keepdims=True)) / g.std(1, keepdims=True)
    if rows == "rms":
        g = g / np.sqrt((g * g).mean(1, keepdims=True))
    return np.sqrt(max(g.shape)) * Muon(0.0, False, steps if min(g.shape) > 1 else 0)(g)
