"""What all schemes of bitsandbytes share: layers of its own in the place of plain ones, frozen."""

import logging
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core.contracts import Scheme
from hybridopt.core.numerics.grids import piece

from .described import describe_, refuse_packed_

__all__ = ["FrozenScheme", "empty", "in_its_place", "quantized_at_once", "silence"]

PIECE = 1 << 20  # weights quantized at a time on CPUs at most, where that takes up to 28 bytes for each


class FrozenScheme(Scheme):
    """A scheme of bitsandbytes. Its layers compute in the dtype that the weight had."""

    library = "bitsandbytes"
    flag: str  # the attribute of a model by which transformers and PEFT know how it is quantized

    def holds(self, layer: nn.Module) -> bool:
        """Return whether `layer` is a linear layer of bitsandbytes whose weight this scheme keeps."""
        weight = layer._parameters.get("weight") if isinstance(layer, nn.Linear) else None
        return weight is not None and self.owns(weight)

    def mark_(self, model: nn.Module) -> None:
        """Set the flag that PEFT looks for, and write into the configuration what transformers looks for."""
        setattr(model, self.flag, True)
        if any(map(self.holds, model.modules())):
            describe_(model, self.holds, self.told(model))
        refuse_packed_(model)
        silence()

    @abstractmethod
    def told(self, model: nn.Module) -> dict[str, Any]:
        """Return what transformers' BitsAndBytesConfig takes for the layers of this scheme in `model`."""


def in_its_place(new: nn.Module, old: nn.Module) -> nn.Module:
    """Return `new` with the bias parameter and the training mode of `old`."""
    new.bias = old.bias
    return new.train(old.training)


def quantized_at_once(weight: Tensor) -> int:
    """Return how many weights to quantize at a time; on GPUs all: one kernel does it without working room."""
    return piece(weight.numel(), PIECE) if weight.device.type == "cpu" else weight.numel()


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor of this shape and dtype on the meta device."""
    return torch.empty(shape, dtype=dtype, device="meta")


def silence() -> None:
    """Drop the warning that bitsandbytes logs with every 8-bit product: that inputs are cast to float16."""
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(is_news)


def is_news(record: logging.LogRecord) -> bool:
    """Return whether a log record is anything but that warning."""
    return "inputs will be cast" not in record.getMessage()
