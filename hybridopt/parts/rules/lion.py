"""Lion."""

from dataclasses import dataclass

from ...core.contracts import Slot
from . import _betas

__all__ = ["Lion"]


@dataclass(frozen=True)
class Lion:
    """Sign of an interpolated momentum (Chen et al. 2023, Alg. 2)."""

    betas: tuple[float, float] = (0.9, 0.99)
    local = True
    reads_param = False
    looks = 0

    def __post_init__(self):
        object.__setattr__(self, "betas", _betas.check("Lion", self.betas))

    def slots(self, shape):
        """Momentum: 4 bytes an element."""
        return {"exp_avg": Slot(shape)}

    def numbers(self, step):
        """None."""
        return {}

    def update(self, grad, state, param, now):
        """sign(b1 m + (1 - b1) g), then m moves with b2."""
        b1, b2 = self.betas
        direction = state["exp_avg"].lerp(grad, 1 - b1).sign_()
        state["exp_avg"].lerp_(grad, 1 - b2)
        return direction
