"""AdamW."""

from dataclasses import dataclass

import torch

from ...core.contracts import Slot
from ...core.errors import check_number
from . import _betas

__all__ = ["AdamW"]


@dataclass(frozen=True)
class AdamW:
    """Adam with bias correction, eps added after it (Kingma & Ba 2015; decay: Loshchilov & Hutter 2019, Alg. 2)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    local = True
    reads_param = False
    looks = 0

    def __post_init__(self):
        object.__setattr__(self, "betas", _betas.check("AdamW", self.betas))
        check_number("AdamW", "eps", self.eps, 0)

    def slots(self, shape):
        """First and second moment: 8 bytes an element."""
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}

    def numbers(self, step):
        """Bias corrections."""
        b1, b2 = self.betas
        return {"bias1": 1 - b1**step, "bias2": (1 - b2**step) ** 0.5}

    def update(self, grad, state, param, now):
        """m_hat / (sqrt(v_hat) + eps)."""
        b1, b2 = self.betas
        m = state["exp_avg"].lerp_(grad, 1 - b1)
        v = state["exp_avg_sq"].mul_(b2).addcmul_(grad, grad, value=1 - b2)
        denom = v.sqrt().div_(now["bias2"]).add_(self.eps)
        return (m / denom).div_(now["bias1"])

    def fused_(self, params, grads, states, age, lr, decay):
        """The whole step by torch's kernel: param = decay * param - lr * direction."""
        moments = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")]
        steps = [torch.tensor(float(age), device=params[0].device)] * len(params)
        b1, b2 = self.betas
        options = {"beta1": b1, "beta2": b2, "eps": self.eps, "amsgrad": False, "maximize": False}
        decay = (1 - decay) / lr if decay != 1 else 0.0
        torch._fused_adamw_(params, grads, *moments, [], steps, lr=lr, weight_decay=decay, **options)
