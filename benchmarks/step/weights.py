"""Random weights and gradients of a Llama, in memory that all rows share."""

import torch
from torch import Tensor, nn

from .sets import Model

POOL = 1_000_003  # random numbers drawn once and repeated: to fill 8 billion weights takes a moment


class Weights:
    """Weights (standard deviation 0.02) and gradients (0.01) of one model; every row gets them fresh."""

    def __init__(self, llama: Model, dtype: torch.dtype, device: str):
        self.values = {n: torch.empty(s, dtype=dtype, device=device) for n, s in llama.shapes.items()}
        self.grads = {n: torch.empty_like(value) for n, value in self.values.items()}
        generator = torch.Generator().manual_seed(0)
        self._pool = torch.randn(POOL, generator=generator).to(device)

    @property
    def numel(self) -> int:
        """Return the number of parameters of the model."""
        return sum(value.numel() for value in self.values.values())

    def fresh(self) -> dict[str, nn.Parameter]:
        """Return new parameters over the old memory, with the first values and gradients again."""
        for name, value in self.values.items():
            self._fill(value, 0.02)
            self._fill(self.grads[name], 0.01)
        return {name: nn.Parameter(value) for name, value in self.values.items()}

    def give(self, params: dict[str, nn.Parameter], idle: frozenset[str] = frozenset()) -> None:
        """Set every gradient; parameters named in `idle` have none."""
        for name, p in params.items():
            p.grad = None if name in idle else self.grads[name]

    def marks(self) -> dict[str, int]:
        """Return a checksum of every weight, by which a change shows."""
        return {name: int(bits(value).sum(dtype=torch.int64)) for name, value in self.values.items()}

    def _fill(self, tensor: Tensor, scale: float):
        for chunk in tensor.view(-1).split(POOL):
            chunk.copy_(self._pool[: len(chunk)] * scale)


def bits(tensor: Tensor) -> Tensor:
    """Return the same memory as integers."""
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
