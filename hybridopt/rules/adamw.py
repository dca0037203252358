"""AdamW."""

from dataclasses import dataclass

from ..base import Slot
from ..errors import check_number
from . import _betas

__all__ = ["AdamW"]


@dataclass(frozen=True)
class AdamW:
    """Adam with bias correction, eps added after it (Kingma & Ba 2015; decay: Loshchilov & Hutter 2019, Alg. 2)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    local = True
    reads_param = False

    def __post_init__(self):
        object.__setattr__(self, "betas", _betas.check("AdamW", self.betas))
        check_number("AdamW", "eps", self.eps, 0)

    def slots(self, shape):
        """First and second moment: 8 bytes an element."""
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}

    def update(self, grad, state, param, step):
        """m_hat / (sqrt(v_hat) + eps)."""
        b1, b2 = self.betas
        m = state["exp_avg"].lerp_(grad, 1 - b1)
        v = state["exp_avg_sq"].mul_(b2).addcmul_(grad, grad, value=1 - b2)
        denom = v.sqrt().div_((1 - b2**step) ** 0.5).add_(self.eps)
        return (m / denom).div_(1 - b1**step)
