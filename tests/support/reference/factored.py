"""Rules with a factored second moment, for one matrix or vector, as their papers state them."""

import numpy as np

__all__ = ["AdaLomo", "Adafactor", "Came"]


def rms(x):
    """Root mean square."""
    return np.sqrt(np.mean(x * x))


class Factored:
    """A running mean of squares: of rows and columns for a matrix, of entries for a vector."""

    def __init__(self):
        self.r = self.c = 0.0

    def __call__(self, squares, b):
        """Shazeer & Stern 2018, Algorithms 4 and 5: V = R C / (1' R)."""
        if squares.ndim == 1:
            self.r = b * self.r + (1 - b) * squares
            return self.r
        rows, cols = squares.shape
        self.r = b * self.r + (1 - b) * squares @ np.ones(cols)
        self.c = b * self.c + (1 - b) * np.ones(rows) @ squares
        return np.outer(self.r, self.c) / (np.ones(rows) @ self.r)


class Adafactor:
    """Shazeer & Stern 2018, Algorithms 4 to 6; momentum of the updates as in section 6."""

    def __init__(self, eps=(1e-30, 1e-3), d=1.0, beta1=None, scale=True, relative=False, decay=-0.8):
        self.eps, self.d, self.beta1, self.scale, self.relative, self.decay = eps, d, beta1, scale, relative, decay
        self.v, self.t, self.m = Factored(), 0, 0.0

    def __call__(self, g, x):
        """alpha_t times U / max(1, RMS(U) / d), with alpha_t = max(eps2, RMS(X)) rho_t."""
        self.t += 1
        u = g / np.sqrt(self.v(g * g + self.eps[0], 1 - self.t**self.decay))
        u = u / max(1.0, rms(u) / self.d)
        if self.scale:
            u = max(self.eps[1], rms(x)) * u
        if self.relative:
            u = min(1e-2, 1 / np.sqrt(self.t)) * u
        if self.beta1 is None:
            return u
        self.m = self.beta1 * self.m + (1 - self.beta1) * u
        return self.m


class AdaLomo(Adafactor):
    """Lv et al. 2023: the update that Adafactor makes without momentum and relative steps."""


class Came:
    """Luo et al. 2023, Algorithm 2; vectors keep entries, and have no confidence, as in the authors' code."""

    def __init__(self, betas=(0.9, 0.999, 0.9999), eps=(1e-30, 1e-16), d=1.0, correct=False):
        self.betas, self.eps, self.d, self.correct = betas, eps, d, correct
        self.v, self.s, self.t, self.m = Factored(), Factored(), 0, 0.0

    def __call__(self, g):
        """m / sqrt(S), every mean divided by 1 - beta^t if corrected."""
        self.t += 1
        b1, b2, b3 = self.betas
        c1, c2, c3 = (1 - b**self.t if self.correct else 1.0 for b in self.betas)
        u = g / np.sqrt(self.v(g * g + self.eps[0], b2) / c2)
        u = u / max(1.0, rms(u) / self.d)
        self.m = b1 * self.m + (1 - b1) * u
        if g.ndim == 1:
            return self.m / c1
        return self.m / c1 / np.sqrt(self.s((u - self.m) ** 2 + self.eps[1], b3) / c3)
