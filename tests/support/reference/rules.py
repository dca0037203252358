"""Update rules for one array, as their papers state them; every object holds the state of one array."""

import numpy as np

__all__ = ["FREE", "FULL", "Adam", "Lion", "Momentum"]


class Adam:
    """Kingma & Ba 2015, Algorithm 1 (the step without its size)."""

    def __init__(self, b1=0.9, b2=0.999, eps=1e-8):
        self.b1, self.b2, self.eps, self.t, self.m, self.v = b1, b2, eps, 0, 0.0, 0.0

    def __call__(self, g):
        """m-hat over (square root of v-hat) + eps."""
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g * g
        m_hat = self.m / (1 - self.b1**self.t)
        v_hat = self.v / (1 - self.b2**self.t)
        return m_hat / (np.sqrt(v_hat) + self.eps)


class Lion:
    """Chen et al. 2023, Algorithm 2."""

    def __init__(self, b1=0.9, b2=0.99):
        self.b1, self.b2, self.m = b1, b2, 0.0

    def __call__(self, g):
        """The sign of the interpolation."""
        update = np.sign(self.b1 * self.m + (1 - self.b1) * g)
        self.m = self.b2 * self.m + (1 - self.b2) * g
        return update


class Momentum:
    """Sutskever et al. 2013 in torch's form: the velocity starts at the first gradient."""

    def __init__(self, momentum=0.9, sign=False):
        self.momentum, self.sign, self.velocity = momentum, sign, 0.0

    def __call__(self, g):
        """The velocity, or its sign."""
        self.velocity = self.momentum * self.velocity + g
        return np.sign(self.velocity) if self.sign else self.velocity


FULL = {"adamw": Adam, "lion": Lion, "momentum": Momentum}
FREE = {"signsgd": np.sign, "sgd": lambda g: g, "no_update": np.zeros_like}
