"""What all sources that probe check about their options."""

from ...core.errors import HybridOptError, check_choice, check_count, check_number
from ...core.numerics.directions import KINDS

__all__ = ["check"]


def check(source: object, owner: str) -> None:
    """Raise HybridOptError for an option that is out of range; those that the source has not are passed over."""
    check_number(owner, "eps", source.eps, 0)
    if source.eps == 0:
        raise HybridOptError(f"{owner}: eps=0 does not shift the weights; give a number > 0, such as 1e-3")
    check_count(owner, "samples", source.samples, 1)
    check_choice(owner, "kind", getattr(source, "kind", "rademacher"), KINDS)
    for name in ("clip", "pool"):
        value = getattr(source, name, None)
        if value is not None and name == "pool":
            check_count(owner, name, value, 1)
        elif value is not None:
            check_number(owner, name, value, 0)
            if value == 0:
                raise HybridOptError(f"{owner}: clip=0 would stop all training; give a number > 0, or None")
