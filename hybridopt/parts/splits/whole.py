"""Density 1."""

from dataclasses import dataclass

__all__ = ["Whole"]


@dataclass(frozen=True)
class Whole:
    """The whole parameter is state-full: density 1."""

    update_gap: int = 0
    local = True
    disjoint = True
    covers = True
    carries = False

    def at(self, draw, shape):
        """Itself."""
        return self

    def shape(self, full):
        """The full shape."""
        return full

    def slots(self, full):
        """Nothing to keep."""
        return {}

    def sample(self, grad, basis, draw):
        """Nothing to draw."""

    def down(self, x, basis):
        """All of `x`."""
        return x

    def rest(self, x, basis):
        """Nothing."""
        return None

    def up_(self, out, x, basis):
        """`x` itself."""
        return x
