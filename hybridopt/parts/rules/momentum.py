"""SGD with momentum."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State, computed
from ...core.errors import HybridOptError, check_number

__all__ = ["Momentum"]


@dataclass(frozen=True)
class Momentum(Rule):
    """SGD with momentum as in torch.optim.SGD: the buffer starts at the first gradient (Sutskever et al. 2013)."""

    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    sign: bool = False  # step with the sign of the direction, as FRUGAL's state-full SGD may
    local = True
    looks = 0

    def __post_init__(self) -> None:
        check_number("Momentum", "momentum", self.momentum, 0, 1, open_end=True)
        check_number("Momentum", "dampening", self.dampening, 0, 1)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise HybridOptError(f"nesterov=True needs momentum > 0 and dampening 0; got {self}", "Momentum")

    @computed
    def proportional(self) -> bool:
        """Return whether steps are of the direction, not of its sign."""
        return not self.sign

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare the momentum buffer: 4 bytes an element."""
        return {"momentum_buffer": Slot(shape)}

    def numbers(self, step: int) -> dict[str, float]:
        """Return the weight of the gradient, 1 in the first step."""
        return {"gain": 1.0 if step == 1 else 1 - self.dampening}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return buf = momentum * buf + (1 - dampening) * g, shape of `grad`; g + momentum * buf with nesterov.

        Args:
            grad: g, of any shape.
            state: buf, "momentum_buffer", of the same shape; moved in place.
            param: not read.
            now: weight of the gradient, "gain".
        """
        buf = state["momentum_buffer"]
        buf.mul_(self.momentum).add_(grad * now["gain"])
        out = grad.add(buf, alpha=self.momentum) if self.nesterov else buf.clone()
        return out.sign_() if self.sign else out
