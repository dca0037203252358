"""What torch.compile makes of the shortest signSGD and AdamW, one tensor at a time: a yardstick for fused steps."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class CompiledSignSGD:
    """p <- p - lr sign(g), computed in the weight's dtype."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float):
        self.params, self.lr = list(params), torch.tensor(lr)
        self._update = torch.compile(signsgd, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter."""
        for p in self.params:
            assert p.grad is not None
            self._update(p.detach(), p.grad, self.lr)


class CompiledAdamW:
    """AdamW without weight decay, state and arithmetic in float32, weights rounded to nearest."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float):
        self.params, self.lr, self.age = list(params), lr, 0
        self.state = [[torch.zeros_like(p, dtype=torch.float32) for _ in range(2)] for p in self.params]
        self._update = torch.compile(adamw, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter; numbers go in as tensors, so that they are not compiled in."""
        self.age += 1
        root = (1 - 0.999**self.age) ** 0.5
        size, eps = torch.tensor(self.lr * root / (1 - 0.9**self.age)), torch.tensor(1e-8 * root)
        for p, (mean, square) in zip(self.params, self.state, strict=True):
            assert p.grad is not None
            self._update(p.detach(), p.grad, mean, square, size, eps)


def signsgd(p: Tensor, grad: Tensor, lr: Tensor) -> None:
    """Update one parameter by signSGD.

    Args:
        p: the parameter.
        grad: its gradient.
        lr: learning rate [].
    """
    p.sub_(grad.sign() * lr)


def adamw(p: Tensor, grad: Tensor, mean: Tensor, square: Tensor, size: Tensor, eps: Tensor) -> None:
    """Update one parameter by AdamW; bias correction is within `size` and `eps`.

    Args:
        p: the parameter.
        grad: its gradient.
        mean: first moment.
        square: second moment.
        size: learning rate [].
        eps: of the root [].
    """
    grad = grad.float()
    mean.lerp_(grad, 0.1)
    square.lerp_(grad * grad, 0.001)
    p.copy_(p.float() - size * mean / (square.sqrt() + eps))
