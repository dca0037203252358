"""Orthonormal bases on the gradient's own device: subspace iteration, QR, and the noise that both begin with."""

import torch
from torch import Tensor

from ...core.numerics.normal import normal

__all__ = ["LATER", "NOISE", "first", "leading", "noise", "orthonormal"]

LATER = 1  # products with G'G from a basis: docs/policies.md has the energies
WIDE = 64  # directions from which on FIRST products do, and no decomposition, which waits for the device
FIRST, FEW = 3, 6  # products with G'G from noise, of wide bases and of others
MORE = 8  # directions that noise begins with beside those that are wanted, where bases are not wide
NOISE = 0.1  # length of what is added to a direction of length 1: so directions that are new to the basis are found
FLOOR = 1e-6  # of the largest squared entry: directions about which the gradient says less stay as they are
PIECE = 1 << 22  # elements of a gradient that are worked on at a time in full precision
DRAWN = 1 << 18  # random numbers that are worked out at a time


def leading(grad: Tensor, start: Tensor, rank: int, rounds: int, ordered: bool) -> Tensor:
    """Return `rank` directions in which nearly all of a gradient lies that lies in any so many.

    Subspace iteration (Saad, Numerical Methods for Large Eigenvalue Problems, 5.1; Halko et al. 2011, Alg. 4.4):
    Q <- QR((G'G + floor) Q), and in the last round the leading directions of G within Q first. Where the
    gradient is not finite the start is made orthonormal, and no more. Only the decomposition waits for the device.

    Args:
        grad: G, [..., m, n], in any float dtype.
        start: [..., n, at least r], columns that span something; float32 or float64, in which all is worked out.
        rank: r.
        rounds: products with G'G.
        ordered: look for the leading directions within Q, after one more round and by a decomposition of [r, r],
            although `start` has no more than r: so the first one is the leading one, and so on, as in the SVD.

    Returns:
        [..., n, r], orthonormal.
    """
    q = start
    for left in reversed(range(rounds + ordered)):
        y = _product(grad, q).add_(q, alpha=FLOOR)
        finite = y.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        y = torch.where(finite, y, q)
        if not left and (ordered or q.shape[-1] > rank):
            y = y @ torch.linalg.eigh(q.mT @ y).eigenvectors.flip(-1)[..., :rank]
        q = orthonormal(y)
    return q


def first(side: int, rank: int, ordered: bool) -> tuple[int, int]:
    """Return with how many directions of noise a search begins, and the products with G'G it takes.

    Args:
        side: n, of a direction.
        rank: directions that are wanted.
        ordered: must the leading direction be the first one?
    """
    return (rank, FIRST) if rank >= WIDE and not ordered else (min(side, rank + MORE), FEW)


def orthonormal(x: Tensor) -> Tensor:
    """Return the Q factor of `x` [..., n, r], n >= r, each column on the side of what it was made of."""
    q, r = torch.linalg.qr(x)
    sign = 1 - 2 * (r.diagonal(dim1=-2, dim2=-1) < 0).to(q.dtype)
    signed: Tensor = q.mul_(sign.unsqueeze(-2))
    return signed


def noise(like: Tensor, key: int) -> Tensor:
    """Return standard normal numbers in the shape, dtype and device of `like`, the same on all devices.

    Args:
        like: contiguous.
        key: 63 bits.
    """
    out = torch.empty_like(like)
    for turn, piece in enumerate(out.view(-1).split(DRAWN)):
        piece.copy_(normal(tuple(piece.shape), key, turn, piece))
    return out


def _product(grad: Tensor, q: Tensor) -> Tensor:
    """Return G'G Q for a gradient whose largest entry is made 1, by pieces of its rows."""
    top = torch.linalg.vector_norm(grad, torch.inf, dim=(-2, -1), keepdim=True).to(q.dtype)
    top = top.clamp_min_(torch.finfo(q.dtype).tiny)
    rows = max(1, PIECE * grad.shape[-2] // grad.numel())
    out = torch.zeros_like(q)
    for piece in grad.split(rows, -2):
        x = piece.to(q.dtype)
        out.add_(x.mT @ (x @ q).div_(top))
    return out.div_(top)
