"""Lion."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State
from . import _betas

__all__ = ["Lion"]


@dataclass(frozen=True)
class Lion(Rule):
    """Sign of an interpolated momentum (Chen et al. 2023, Alg. 2)."""

    betas: tuple[float, float] = (0.9, 0.99)
    local = True
    looks = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", _betas.check("Lion", self.betas))

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare the momentum: 4 bytes an element."""
        return {"exp_avg": Slot(shape)}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return sign(b1 m + (1 - b1) g), shape of `grad`; then m moves with b2.

        Args:
            grad: g, of any shape.
            state: momentum m, "exp_avg", of the same shape; moved in place.
            param: not read.
            now: not read.
        """
        b1, b2 = self.betas
        direction = state["exp_avg"].lerp(grad, 1 - b1).sign_()
        state["exp_avg"].lerp_(grad, 1 - b2)
        return direction
