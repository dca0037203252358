"""Muon."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State
from ...core.errors import HybridOptError, check_choice, check_count, check_number

__all__ = ["Muon"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the steepest at zero that stay bounded (Jordan 2024)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ADJUST: dict[str, Callable[[int, int], float]] = {
    "original": lambda m, n: max(1.0, m / n) ** 0.5,
    "match_rms_adamw": lambda m, n: 0.2 * max(m, n) ** 0.5,
}


@dataclass(frozen=True)
class Muon(Rule):
    """Momentum with its singular values brought close to one by Newton-Schulz iterations (Jordan et al. 2024).

    adjust: "original" times sqrt(max(1, m / n)), or "match_rms_adamw" times 0.2 sqrt(max(m, n)), which takes the
    learning rate of AdamW (Liu et al. 2025). dtype: of the iterations; "auto" is bfloat16 on accelerators, the
    arithmetic's own on the CPU. eps: a momentum of smaller norm is not brought up to size.
    """

    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    adjust: str = "match_rms_adamw"
    eps: float = 1e-7
    dtype: str = "auto"
    looks = None  # the iterations need the matrix in one piece
    products = True

    def __post_init__(self) -> None:
        check_number("Muon", "momentum", self.momentum, 0, 1, open_end=True)
        if not isinstance(self.nesterov, bool):
            raise HybridOptError(f"nesterov={self.nesterov!r} is not allowed; give True or False", "Muon")
        check_count("Muon", "ns_steps", self.ns_steps, 1, 100)
        check_choice("Muon", "adjust", self.adjust, ADJUST)
        check_number("Muon", "eps", self.eps, 1e-30)
        check_choice("Muon", "dtype", self.dtype, ("auto", *DTYPES))

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare the momentum: 4 bytes an element."""
        return {"momentum_buffer": Slot(shape)}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return the orthogonalised momentum, times what `adjust` says, shape of `grad`.

        Args:
            grad: the whole matrix, [..., m, n].
            state: momentum, "momentum_buffer", of the same shape; moved in place.
            param: not read.
            now: not read.
        """
        buf = state["momentum_buffer"].lerp_(grad, 1 - self.momentum)
        x = grad.lerp(buf, self.momentum) if self.nesterov else buf
        out = self._orthogonal(x).to(grad.dtype)
        return out * ADJUST[self.adjust](*grad.shape[-2:])

    def _orthogonal(self, x: Tensor) -> Tensor:
        """Bring singular values near one: X <- a X + (b X X' + c (X X')^2) X, from X over its Frobenius norm."""
        a, b, c = COEFFICIENTS
        tall = x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=self.eps)).to(self._dtype(x))
        for _ in range(self.ns_steps):
            gram = x @ x.mT
            x = a * x + (b * gram + c * (gram @ gram)) @ x
        return x.mT if tall else x

    def _dtype(self, x: Tensor) -> torch.dtype:
        if self.dtype == "auto":
            return x.dtype if x.device.type == "cpu" else torch.bfloat16
        return DTYPES[self.dtype]
