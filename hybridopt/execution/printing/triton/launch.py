"""What is launched of the kernels of a rule with rounds."""

from dataclasses import dataclass

__all__ = ["Launch"]


@dataclass(frozen=True)
class Launch:
    """A kernel that is launched.

    Args:
        name: of it.
        kind: "look" or "all" (a program has BR rows), "tiles" (BR rows and BC columns), or "settle".
        rows: of a `settle`: is there a program for rows and single numbers?
        columns: of a `settle`: are there programs that have BW columns each?
        folded: of others: does every program add up BS entries of a vector at once?
    """

    name: str
    kind: str
    rows: bool = False
    columns: bool = False
    folded: bool = False
