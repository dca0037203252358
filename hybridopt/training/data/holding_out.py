"""Rows held out for evaluation: the same ones for the same seed."""

from collections.abc import Sequence

import numpy as np

from ...core.errors import HybridOptError

__all__ = ["hold_out"]


def hold_out(rows: int, share: float, seed: int, classes: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
    """Return the numbers of rows for training and for evaluation, both in order.

    Args:
        rows: how many there are.
        share: of them that are held out, at least one.
        seed: of the choice.
        classes: of the rows; of each the same share is held out, and of each one row is left for training.

    Raises:
        HybridOptError: for no share between 0 and 1, or one that leaves no row for training.
    """
    if not 0 < share < 1:
        raise HybridOptError(f"data.eval={share:g} is no share; give a number between 0 and 1, a file, or null")
    wanted = max(1, round(share * rows))
    if wanted >= rows:
        cure = "give a smaller share, more rows, or null"
        raise HybridOptError(f"data.eval={share:g} of {rows} row{'s' * (rows != 1)} leaves none for training; {cure}")
    order = np.random.default_rng(seed).permutation(rows)
    held = set(order[:wanted].tolist() if classes is None else _by_class(order, np.asarray(classes), wanted))
    return [row for row in range(rows) if row not in held], sorted(held)


def _by_class(order: np.ndarray, classes: np.ndarray, wanted: int) -> list[int]:
    """Return rows in the order given, of each class its share (by largest remainders), and never its last row."""
    numbers, counts = np.unique(classes, return_counts=True)
    exact = wanted * counts / counts.sum()
    taken = np.floor(exact).astype(int)  # less than all, as fewer rows are wanted than there are
    for index in np.argsort(-(exact - taken), kind="stable"):
        if taken.sum() < wanted and taken[index] < counts[index] - 1:
            taken[index] += 1
    if not taken.any():
        cure = "give more rows, a file to evaluate with, or null"
        raise HybridOptError(f"data.eval: every class has one row, so none can be held out for evaluation; {cure}")
    mine = [order[classes[order] == number][:count] for number, count in zip(numbers, taken, strict=True)]
    return [int(row) for row in np.concatenate(mine)]
