"""Muon (Jordan et al. 2024) in plain NumPy, through the singular values."""

import numpy as np

__all__ = ["Muon"]


class Muon:
    """One matrix; the iteration is an odd polynomial, so it acts on the singular values alone."""

    def __init__(self, momentum=0.95, nesterov=True, steps=5, factor=1.0):
        self.momentum, self.nesterov, self.steps, self.factor, self.buf = momentum, nesterov, steps, factor, 0.0

    def __call__(self, g):
        """U phi(S / |S|) V'."""
        self.buf = self.momentum * self.buf + (1 - self.momentum) * g
        x = (1 - self.momentum) * g + self.momentum * self.buf if self.nesterov else self.buf
        u, s, vh = np.linalg.svd(x, full_matrices=False)
        s = s / np.linalg.norm(s)
        for _ in range(self.steps):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        return self.factor * (u * s) @ vh
