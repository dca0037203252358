"""Density 0."""

from dataclasses import dataclass

__all__ = ["Empty"]


@dataclass(frozen=True)
class Empty:
    """The whole parameter is state-free: density 0."""

    update_gap: int = 0
    local = True
    disjoint = False
    covers = False
    carries = False

    def at(self, draw, shape):
        """Itself."""
        return self

    def shape(self, full):
        """None: there is no state-full part."""
        return None

    def slots(self, full):
        """Nothing to keep."""
        return {}

    def sample(self, grad, basis, draw):
        """Nothing to draw."""

    def down(self, x, basis):
        """Nothing."""
        return None

    def rest(self, x, basis):
        """All of `x`."""
        return x

    def up_(self, out, x, basis):
        """`out` as it is."""
        return out
