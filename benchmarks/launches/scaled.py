"""The bounds of all of Llama-3-8B, for fewer of its tensors."""

from math import ceil

from ..shared.llama import SETS
from .machine_table import MOST
from .rows import ROWS

__all__ = ["PROFILED", "scaled"]

PROFILED = (  # the rows that are counted on a GPU, too
    *("adamw", "signsgd", "frugal", "adalomo", "adamw, int8", "mezo"),
    *("signsgd, fused", "muon, fused, full", "galore, new window"),  # does QR wait there?
)
ALL = len(SETS["8b"].shapes)
ONCE = 100  # launches of a step, however few tensors there are: of what small ones have in common, above all


def scaled(row: str, tensors: int) -> dict[str, int]:
    """Return how much one step may ask of a real device, by kind.

    A profiler tells no launch of a compiled kernel from another, so that there is one bound for both: as large a part
    of theirs as there are tensors, every kernel of a call counted, and what every step needs once. Waits and copies
    depend on no number of tensors. Of kinds for which one of both has no bound there is none.

    Args:
        row: of ROWS.
        tensors: how many are trained.
    """
    most = ROWS[row].most
    found: dict[str, int] = {kind: n for kind, n in most.items() if kind in ("waits", "copies", "midway")}
    if {"compiled", "launches"} <= most.keys():
        calls = most["compiled"] * MOST.get(row, 1)
        found["launches"] = ceil((calls + most["launches"]) * tensors / ALL) + ONCE
    return found
