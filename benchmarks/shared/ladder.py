"""The ladder of learning rates that searches climb."""

import math


def rung(lr: float, up: int = 0) -> float:
    """Return the value `up` places above `lr` on the ladder ... 1e-3, 3e-3, 1e-2 ..."""
    return float(f"{10 ** ((round(2 * math.log10(lr)) + up) / 2):.0e}")
