"""Newton-Schulz iterations that bring singular values near one, which Muon and whitening share."""

import torch
from torch import Tensor

from ...core.errors import check_choice, check_count, check_number

__all__ = ["check", "orthogonal"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the steepest at zero that stay bounded (Jordan 2024)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def check(owner: str, ns_steps: object, eps: object, dtype: object) -> None:
    """Raise HybridOptError for options that make no sense.

    Args:
        owner: the rule, for errors.
        ns_steps: iterations, 1 to 100.
        eps: least norm of what is iterated, above 0.
        dtype: "auto", "float32" or "bfloat16".
    """
    check_count(owner, "ns_steps", ns_steps, 1, 100)
    check_number(owner, "eps", eps, 1e-30)
    check_choice(owner, "dtype", dtype, ("auto", *DTYPES))


def orthogonal(x: Tensor, ns_steps: int, eps: float, dtype: str) -> Tensor:
    """Bring singular values near one: X <- a X + (b X X' + c (X X')^2) X, from X over its Frobenius norm.

    Args:
        x: matrices, [..., m, n].
        ns_steps: iterations.
        eps: a matrix of smaller norm is not brought up to size; zeros stay zeros.
        dtype: of the iterations; "auto" is bfloat16 on accelerators, that of `x` on the CPU.

    Returns:
        A tensor of its own, [..., m, n] in the dtype of the iterations.
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)).to(_dtype(x, dtype))
    for _ in range(ns_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def _dtype(x: Tensor, dtype: str) -> torch.dtype:
    if dtype == "auto":
        return x.dtype if x.device.type == "cpu" else torch.bfloat16
    return DTYPES[dtype]
