"""Stand-ins for logits that are computed later, a tile at a time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import HybridOptError

__all__ = ["Logits", "refuse"]


@dataclass(frozen=True)
class Logits:
    """Stand in for what a linear output layer returns for hidden states [..., width].

    Scaling, casting and tanh are recorded in `steps`, to be applied to every tile; anything else raises
    HybridOptError.
    """

    hidden: Tensor
    layer: nn.Linear
    steps: tuple[Callable[[Tensor], Tensor], ...] = ()

    dtype = property(lambda self: self.hidden.dtype)
    device = property(lambda self: self.hidden.device)
    shape = property(lambda self: torch.Size((*self.hidden.shape[:-1], self.layer.out_features)))

    def bend(self, x: Tensor) -> Tensor:
        """Apply the recorded steps to a tile of the logits."""
        for step in self.steps:
            x = step(x)
        return x

    def then(self, step: Callable[[Tensor], Tensor]) -> "Logits":
        """Return a copy with one more step recorded."""
        return replace(self, steps=(*self.steps, step))

    def float(self) -> "Logits":
        """Record a cast to float32."""
        return self.then(Tensor.float)

    def to(self, *args, **kwargs) -> "Logits":
        """Record a cast or move, as `Tensor.to`."""
        return self.then(lambda x: x.to(*args, **kwargs))

    def contiguous(self) -> "Logits":
        """Return itself: tiles are contiguous."""
        return self

    def __mul__(self, factor: Any) -> "Logits":
        return self.then(lambda x: x * _number(factor))

    __rmul__ = __mul__

    def __truediv__(self, factor: Any) -> "Logits":
        return self.then(lambda x: x / _number(factor))

    def __getitem__(self, key):
        refuse("cuts them")

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        refuse(f"asks for their {name!r}")

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.tanh and len(args) == 1 and not kwargs:
            return args[0].then(torch.tanh)
        refuse(f"calls {getattr(function, '__name__', function)} with them")


def refuse(what: str):
    """Raise HybridOptError, saying what the model does to its logits."""
    raise HybridOptError(
        f"chunked_loss: the model does more to its logits than scale, cast or bend them (tanh): it {what}. Take the "
        "plain loss for this model, or call linear_cross_entropy on its hidden states"
    )


def _number(factor: Any) -> Any:
    return factor if isinstance(factor, Real) else refuse("multiplies them by tensors")
