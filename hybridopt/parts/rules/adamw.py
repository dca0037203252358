"""AdamW."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State
from ...core.errors import check_number
from . import _betas

__all__ = ["AdamW"]


@dataclass(frozen=True)
class AdamW(Rule):
    """Adam with bias correction, eps added after it (Kingma & Ba 2015; decay: Loshchilov & Hutter 2019, Alg. 2)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    local = True
    looks = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", _betas.check("AdamW", self.betas))
        check_number("AdamW", "eps", self.eps, 0)

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare the first and the second moment: 8 bytes an element."""
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}

    def numbers(self, step: int) -> dict[str, float]:
        """Return the bias corrections 1 - b1**step and sqrt(1 - b2**step)."""
        b1, b2 = self.betas
        return {"bias1": 1 - b1**step, "bias2": (1 - b2**step) ** 0.5}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return m_hat / (sqrt(v_hat) + eps), shape of `grad`.

        Args:
            grad: g, of any shape.
            state: moments m, "exp_avg", and v, "exp_avg_sq", of the same shape; moved in place.
            param: not read.
            now: bias corrections, "bias1" and "bias2".
        """
        b1, b2 = self.betas
        m = state["exp_avg"].lerp_(grad, 1 - b1)
        v = state["exp_avg_sq"].mul_(b2).addcmul_(grad, grad, value=1 - b2)
        denom = v.sqrt().div_(now["bias2"]).add_(self.eps)
        return (m / denom).div_(now["bias1"])
