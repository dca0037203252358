"""Muon."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State
from ...core.errors import HybridOptError, check_choice, check_number
from . import _newton_schulz

__all__ = ["Muon"]

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
        check_choice("Muon", "adjust", self.adjust, ADJUST)
        _newton_schulz.check("Muon", self.ns_steps, self.eps, self.dtype)

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
        out = _newton_schulz.orthogonal(x, self.ns_steps, self.eps, self.dtype).to(grad.dtype)
        return out * ADJUST[self.adjust](*grad.shape[-2:])
