"""What a weight is asked for that is kept as codes and is a float parameter to everything else."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["CodedWeight", "PackedWeight"]


class PackedWeight(Tensor):
    """A tensor subclass that is of floats to modules, autograd and PEFT, and is kept as integer codes with constants.

    Its module stays as it is and computes with it by itself: every operation that needs values dequantizes them.
    """

    @property
    def nbytes(self) -> int:  # type: ignore[override]  # torch's is the size of the floats
        """Return the bytes of codes and constants."""
        return sum(part.nbytes for part in self.parts().values())

    def parts(self) -> dict[str, Tensor]:
        """Return the plain tensors that are kept, by name; "codes" is one of them."""
        raise NotImplementedError

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the values as a plain tensor, in `dtype` or in the weight's own."""
        raise NotImplementedError

    def of(self, parts: dict[str, Tensor]) -> "PackedWeight":
        """Return a weight of the same kind, shape and dtype that is kept as other parts."""
        raise NotImplementedError

    def read(self, parts: Mapping[str, Tensor], values: Tensor | None) -> "PackedWeight | None":
        """Return the weight that a state dict holds; None for one that does not hold this weight.

        Args:
            parts: those of `parts` that are there, by name.
            values: floats under the weight's own name, if there are any.
        """
        return self.of(dict(parts)) if parts.keys() == self.parts().keys() else None


class CodedWeight(PackedWeight):
    """A packed weight that is trained: schemes with `trains` make theirs of a subclass; a store writes to it."""

    codes: Tensor
    """The codes, in the shape of the weight."""

    def shard(self, ranks: int, rank: int) -> "CodedWeight":
        """Return a copy of the rows that a rank gets where FSDP2 cuts the weight.

        Args:
            ranks: so many.
            rank: which of them.
        """
        raise NotImplementedError

    def zeros(self, rows: int) -> "CodedWeight":
        """Return a weight of so many rows of the same width, all zero."""
        raise NotImplementedError

    def bytes_of(self, rows: int) -> int:
        """Return the bytes of codes and constants of so many rows."""
        raise NotImplementedError

    def first_rows(self, rows: int) -> "CodedWeight":
        """Return the first rows, as a view; what they are kept as may belong to later rows, too."""
        raise NotImplementedError

    def fsdp_pre_all_gather(self, mesh: Any) -> tuple[tuple[Tensor, ...], Any]:
        """Return the `parts` of a shard as FSDP2 gathers them, the same size on all ranks, and what to tell those.

        mesh: of the ranks that gather.
        """
        raise NotImplementedError

    def fsdp_post_all_gather(
        self, gathered: tuple[Tensor, ...], told: Any, dtype: torch.dtype, *, out: Tensor | None = None
    ) -> Any:
        """Return the weight of what FSDP2 has gathered, and the tensors that it may free.

        Args:
            gathered: the parts of all ranks, one after the other.
            told: by `fsdp_pre_all_gather`.
            dtype: of the values.
            out: the weight that was returned first, if it was: it has those tensors, filled anew; return None.
        """
        raise NotImplementedError

    def opened(self) -> Callable[[Sequence[Tensor]], Any]:
        """Return a function that makes, of the values of `parts` in their order, what a store writes to in a kernel.

        Kernels take no subclasses of tensors. The function holds no tensor, and is the same for all weights that may
        share a kernel; what it makes has `to(dtype)`, and what the weight's store asks for.
        """
        raise NotImplementedError
