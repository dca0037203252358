"""The second moment as an outer product of row and column means, which Adafactor, AdaLomo and CAME share.

Its matrix is never formed: 1 / sqrt(V) is a factor by row times a factor by column.
"""

import torch
from torch import Tensor

from ...core.contracts import Numbers, Shape, Slot, State, found
from ...core.errors import HybridOptError, check_number

__all__ = ["check", "clip", "down_the_columns", "factors", "look", "slots", "step_size", "sums"]

Pair = tuple[Tensor, Tensor]
ROWS, MANY = 16, 256


def check(owner: str, eps: object, clip_threshold: object, decay_rate: object = -0.8) -> tuple[float, float]:
    """Return `eps` as a tuple of two numbers; HybridOptError for options that make no sense.

    Args:
        owner: the rule, for errors.
        eps: two numbers of at least 0.
        clip_threshold: a number above 0.
        decay_rate: a number in [-1, 0].
    """
    if not isinstance(eps, tuple | list) or len(eps) != 2:
        raise HybridOptError(f"eps={eps!r} is not allowed; give two numbers of at least 0", owner)
    for i, value in enumerate(eps):
        check_number(owner, f"eps[{i}]", value, 0)
    check_number(owner, "decay_rate", decay_rate, -1, 0)
    check_number(owner, "clip_threshold", clip_threshold, 0)
    if clip_threshold == 0:
        raise HybridOptError("clip_threshold=0 would stop every update; give a number above 0, such as 1", owner)
    first, second = eps
    return first, second


def slots(shape: Shape, name: str = "exp_avg_sq") -> dict[str, Slot]:
    """Declare running means of rows and columns, 4 bytes each; HybridOptError for what is no matrix."""
    if len(shape) < 2:
        raise HybridOptError(
            f"a factored second moment needs a matrix, got shape {tuple(shape)}; take split='columns', 'rows' or "
            "'svd', or a rule that works element by element, such as 'adamw'"
        )
    *lead, rows, cols = shape
    return {
        f"{name}_row": Slot((*lead, rows), signed=False, exact=True),
        f"{name}_col": Slot((*lead, cols), signed=False, exact=True),
    }


def sums(x: Tensor) -> State:
    """Return the sums of squares of the rows, "row" [..., m, 1], and of the columns, "col" [..., 1, n]."""
    squares = x * x
    return {"row": squares.sum(-1, keepdim=True), "col": down_the_columns(squares)}


def down_the_columns(x: Tensor) -> Tensor:
    """Return the sums of the columns, [..., 1, n]."""
    # Of many rows first 16 at a time, as a compiled loop down a whole column would reread memory.
    if x.shape[-2] < MANY:
        return x.sum(-2, keepdim=True)
    groups = x.shape[-2] // ROWS
    body, left = x[..., : groups * ROWS, :], x[..., groups * ROWS :, :]
    total: Tensor = body.unflatten(-2, (groups, ROWS)).sum(-2).sum(-2, keepdim=True)
    return total + left.sum(-2, keepdim=True)


def factors(state: State, squares: State, fresh: float | Tensor, eps: float, name: str = "exp_avg_sq") -> Pair:
    """Move the running means; return factors by row [..., m, 1] and by column [..., 1, n] of 1 / sqrt(V).

    V = r c / mean(r) (Shazeer & Stern 2018, Alg. 4). Multiply them one after the other: their product may be too large
    where the gradient is zero.

    Args:
        state: the running means, moved in place.
        squares: sums of squares, as `sums` finds them.
        fresh: their share in the means.
        eps: added to the means, which is adding it to every square.
        name: of the slots, without "_row" and "_col".
    """
    row, col, limits = state[f"{name}_row"], state[f"{name}_col"], torch.finfo(squares["row"].dtype)
    m, n = row.shape[-1], col.shape[-1]
    largest = limits.max / 4  # squares that overflow must not become infinite means, and those NaN
    for mean, now in ((row, squares["row"].squeeze(-1) / n), (col, squares["col"].squeeze(-2) / m)):
        mean.mul_(1 - fresh).add_((now.clamp(max=largest) + eps) * fresh)
    share = row / (row / m).sum(-1, keepdim=True).clamp(min=limits.tiny)
    by_row, by_col = (x.clamp(min=limits.tiny).rsqrt() for x in (share, col))
    return by_row.unsqueeze(-1), by_col.unsqueeze(-2)


def look(i: int, grad: Tensor, param: Tensor | None, now: Numbers) -> tuple[State, State]:
    """Find sums of squares in round 0; in round 1 how large the update would be, and how large the weights are.

    Args:
        i: round, 0 or 1.
        grad: rows of the gradient, [..., rows, n].
        param: these rows of the weight; None where they do not matter.
        now: in round 1 "by_col", [..., 1, n].
    """
    if i == 0:
        squares = sums(grad)
        return {"row": squares["row"]}, {"col": squares["col"]}
    size = {"update": (grad * now["by_col"]).square().sum(-1, keepdim=True)}
    return size if param is None else size | {"param": param.square().sum(-1, keepdim=True)}, {}


def step_size(rows: State, now: Numbers, clip_threshold: float, least: float) -> Tensor:
    """Return max(least, RMS(param)), if it was looked at, over max(1, RMS(update) / clip_threshold): [..., 1, 1].

    Args:
        rows: what `look` has found in round 1, joined: [..., m, 1] each.
        now: "by_row", [..., m, 1], and "by_col", [..., 1, n].
        clip_threshold: largest root mean square of an update.
        least: size that a weight counts with at the least.
    """
    by_row, by_col = found(now, "by_row"), found(now, "by_col")
    size = by_row.shape[-2] * by_col.shape[-1]
    scale = clip((rows["update"] * by_row.square()).sum(-2, keepdim=True) / size, clip_threshold)
    if "param" in rows:
        scale = scale * (rows["param"].sum(-2, keepdim=True) / size).sqrt().clamp(min=least)
    return scale


def clip(mean_square: Tensor, clip_threshold: float) -> Tensor:
    """Return 1 / max(1, RMS / clip_threshold), shape of `mean_square` (Shazeer & Stern 2018, section 6)."""
    return (mean_square.sqrt() / clip_threshold).clamp(min=1).reciprocal()
