"""BAdam (Luo et al. 2024, Algorithm 1): block coordinate descent with Adam, K steps for a block."""

from .rules import Adam

__all__ = ["BAdam"]


class BAdam:
    """Arrays by name in blocks; `active` names the block whose turn it is, all others stand still."""

    def __init__(self, weights, block_of, lr, decay=None):
        self.weights = {name: w.copy() for name, w in weights.items()}
        self.block_of, self.lr, self.decay = block_of, lr, decay or {}
        self.active, self.adams = None, {}

    def switch(self, active):
        """Another block's turn: its Adam starts from nothing."""
        self.active = active
        self.adams = {name: Adam() for name in self.weights if self.block_of(name) == active}

    def step(self, gradients):
        """One Adam step on the active block."""
        for name, adam in self.adams.items():
            kept = 1 - self.lr * self.decay.get(name, 0.0)
            self.weights[name] = kept * self.weights[name] - self.lr * adam(gradients[name])
