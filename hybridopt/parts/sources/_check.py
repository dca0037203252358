"""What all sources that probe check about their options."""

from ...core.errors import HybridOptError, check_choice, check_count, check_number
from ...core.numerics.directions import KINDS

__all__ = ["check"]

MOST = 2**16  # directions a step: each costs one loss or two


def check(owner: str, eps: float, samples: int, kind: str = "rademacher") -> None:
    """Raise HybridOptError for an option that is out of range.

    Args:
        owner: the source, for errors.
        eps: how far the weights are shifted, above 0.
        samples: directions a step, from 1 to MOST.
        kind: "rademacher" or "gaussian".
    """
    check_number(owner, "eps", eps, 0)
    if eps == 0:
        raise HybridOptError("eps=0 does not shift the weights; give a number > 0, such as 1e-3", owner)
    check_count(owner, "samples", samples, 1, MOST)
    check_choice(owner, "kind", kind, KINDS)
