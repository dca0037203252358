"""SGD with momentum."""

from dataclasses import dataclass

from ...core.contracts import Slot
from ...core.errors import HybridOptError, check_number

__all__ = ["Momentum"]


@dataclass(frozen=True)
class Momentum:
    """SGD with momentum as in torch.optim.SGD: the buffer starts at the first gradient (Sutskever et al. 2013)."""

    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    sign: bool = False  # step with the sign of the direction, as FRUGAL's state-full SGD may
    local = True
    reads_param = False
    looks = 0

    def __post_init__(self):
        check_number("Momentum", "momentum", self.momentum, 0, 1, open_end=True)
        check_number("Momentum", "dampening", self.dampening, 0, 1)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise HybridOptError(f"Momentum: nesterov=True needs momentum > 0 and dampening 0; got {self}")

    def slots(self, shape):
        """Momentum buffer: 4 bytes an element."""
        return {"momentum_buffer": Slot(shape)}

    def numbers(self, step):
        """The weight of the gradient, 1 in the first step."""
        return {"gain": 1.0 if step == 1 else 1 - self.dampening}

    def update(self, grad, state, param, now):
        """buf = momentum * buf + (1 - dampening) * g."""
        buf = state["momentum_buffer"]
        buf.mul_(self.momentum).add_(grad * now["gain"])
        out = grad.add(buf, alpha=self.momentum) if self.nesterov else buf.clone()
        return out.sign_() if self.sign else out
