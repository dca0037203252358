"""Adam-mini (Zhang et al. 2024, Algorithm 2) for one array whose entries are labelled with their blocks."""

import numpy as np

__all__ = ["AdamMini"]


class AdamMini:
    """Adam with the mean of the squares of a block in place of each square."""

    def __init__(self, weight, blocks, lr, b1=0.9, b2=0.999, eps=1e-8):
        self.weight, self.blocks = weight.copy(), np.broadcast_to(blocks, weight.shape)
        self.lr, self.b1, self.b2, self.eps, self.t = lr, b1, b2, eps, 0
        self.m, self.v = np.zeros_like(weight), np.zeros(self.blocks.max() + 1)

    def step(self, g):
        """W <- W - lr m_hat / (sqrt(v_hat of the entry's block) + eps)."""
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        for b in range(len(self.v)):
            self.v[b] = self.b2 * self.v[b] + (1 - self.b2) * np.mean(g[self.blocks == b] ** 2)
        m_hat = self.m / (1 - self.b1**self.t)
        v_hat = self.v / (1 - self.b2**self.t)
        self.weight = self.weight - self.lr * m_hat / (np.sqrt(v_hat[self.blocks]) + self.eps)
