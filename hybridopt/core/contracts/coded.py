"""What a weight is asked for that is kept and trained as codes."""

import torch
from torch import Tensor

__all__ = ["CodedWeight"]


class CodedWeight(Tensor):
    """A tensor subclass that is a float parameter to autograd, and is kept as integer codes with constants.

    Schemes with `trains` make their weights of a subclass; a store writes to it.
    """

    codes: Tensor
    """The codes, in the shape of the weight."""

    def parts(self) -> dict[str, Tensor]:
        """Return the plain tensors that are kept, by name."""
        raise NotImplementedError

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the values as a plain tensor, in `dtype` or in the weight's own."""
        raise NotImplementedError
