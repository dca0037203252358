"""One parameter under AdamW, kept in several ways."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hybridopt import HybridOptimizer
from hybridopt.core.contracts import Slot
from hybridopt.core.numerics.split_floats import joined
from hybridopt.parts.codecs.companded8 import Companded8

from ..shared.tensor_bytes import bytes_of, state_tensors
from . import formulas


class Held(Protocol):
    """A bfloat16 parameter and what its optimizer keeps."""

    def step(self, grad: Tensor, lr: float) -> None:
        """Take one step of AdamW."""

    def weight(self) -> Tensor:
        """Return the weight in float32, as exactly as it is kept."""

    def second(self) -> Tensor:
        """Return the second moment in float32."""

    def bytes(self) -> int:
        """Return the bytes of weight and state."""


class Masters:
    """float32 for the weight and both moments: the yardstick. The model has bfloat16, as a copy."""

    def __init__(self, param: Tensor):
        self.param, self.master = param, param.float()
        self.first, self.square, self.steps = torch.zeros_like(self.master), torch.zeros_like(self.master), 0

    def step(self, grad: Tensor, lr: float) -> None:
        """Take one step of AdamW on the float32 weight, and round it for the model."""
        self.steps, g = self.steps + 1, grad.float()
        self.first.lerp_(g, 0.1)
        self.square.mul_(0.999).addcmul_(g, g, value=0.001)
        root = (self.square / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
        self.master.addcdiv_(self.first / (1 - 0.9**self.steps), root, value=-lr)
        self.param.copy_(self.master)

    def weight(self) -> Tensor:
        """Return the weight."""
        return self.master

    def second(self) -> Tensor:
        """Return the second moment."""
        return self.square

    def bytes(self) -> int:
        """Return the bytes of the bfloat16 weight, the float32 weight, and both moments."""
        return bytes_of((self.param, self.master, self.first, self.square))


class Flash:
    """flashoptim's, by the formulas that equal its kernel."""

    def __init__(self, param: Tensor):
        self.state = formulas.State.of(param)

    def step(self, grad: Tensor, lr: float) -> None:
        """Take one step."""
        formulas.step(self.state, grad, lr)

    def weight(self) -> Tensor:
        """Return the weight."""
        return self.state.weight()

    def second(self) -> Tensor:
        """Return the second moment."""
        return self.state.second()

    def bytes(self) -> int:
        """Return the bytes of everything kept."""
        return bytes_of(self.state.tensors().values())


class Own:
    """hybridopt's AdamW with a store and a codec."""

    def __init__(self, param: Tensor, **options):
        self.param = nn.Parameter(param)
        told: dict[str, Any] = {"policy": "adamw", "lr": 1e-3, "weight_decay": 0.0, "compile": False} | options
        self.optimizer = HybridOptimizer([("weight", self.param)], **told)

    def step(self, grad: Tensor, lr: float) -> None:
        """Take one step."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.param.grad = grad
        self.optimizer.step()

    def weight(self) -> Tensor:
        """Return the weight, with its remainder where there is one."""
        low = self.optimizer.state[self.param].get("weight.low")
        return self.param.detach().float() if low is None else joined(self.param.detach(), low)

    def second(self) -> Tensor:
        """Return the second moment."""
        state = self.optimizer.state[self.param]
        raw = {"": state["exp_avg_sq"]}
        if "exp_avg_sq_absmax" in state:
            raw["_absmax"] = state["exp_avg_sq_absmax"]
        return Companded8().load(raw, Slot(self.param.shape, signed=False))

    def bytes(self) -> int:
        """Return the bytes of the weight and of all state."""
        return bytes_of([self.param, *state_tensors(self.optimizer)])


def own(**options) -> Callable[[Tensor], Held]:
    """Return what holds a parameter by hybridopt's AdamW with options."""
    return lambda param: Own(param, **options)


WAYS: dict[str, Callable[[Tensor], Held]] = {
    "float32 weights and moments": Masters,
    "flashoptim 0.1.4: 24 bits, 8 bits": Flash,
    "hybridopt: bf16_split, companded8": own(store="bf16_split", codec="companded8"),
    "hybridopt: bf16_stochastic, companded8": own(store="bf16_stochastic", codec="companded8"),
    "hybridopt: bf16_split, float32 moments": own(store="bf16_split"),
    "hybridopt: bfloat16 to nearest, float32 moments": own(store="dense"),
}
