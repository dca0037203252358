"""The gradient of the backward pass."""

from dataclasses import dataclass

__all__ = ["Backprop"]


@dataclass(frozen=True)
class Backprop:
    """First-order: what `loss.backward()` leaves in `.grad`."""

    backward = True
    share = 1.0
    scheme = None
    eps = 0.0
    update_gap = 0
    exact = False

    def slots(self, shape):
        """None."""
        return {}

    def sample(self, basis, draw):
        """Nothing to draw."""

    def noise(self, draw, shape, index, basis):
        """None."""
        return None

    def weights(self, slopes):
        """None."""
        return ()
