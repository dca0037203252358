"""Tensors that lie where they lay, in the same form: what was derived from their addresses still holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor

from .task import PLAIN

__all__ = ["LyingForm", "Unmoved", "readable"]

TYPES = frozenset(PLAIN)
_dtype, _device = attrgetter("dtype"), attrgetter("device")


def readable(xs: Sequence[Tensor]) -> bool:
    """Return whether the numbers of all tensors can be read by their addresses, and each has some.

    That is not so for subclasses, views that negate, and zeros without memory.
    """
    return (
        TYPES.issuperset(map(type, xs))
        and all(map(Tensor.is_contiguous, xs))
        and not any(map(Tensor.is_neg, xs))
        and all(map(Tensor.data_ptr, xs))
    )


@dataclass(frozen=True)
class LyingForm:
    """The form of several tensors on one device, each of which lies in memory number after number.

    Args:
        dtypes: of each.
        device: of all.
        sizes: elements of each.
    """

    dtypes: list[torch.dtype]
    device: torch.device
    sizes: list[int]

    @staticmethod
    def of(xs: Sequence[Tensor]) -> "LyingForm":
        """Return the form of tensors, of which the first one tells the device."""
        return LyingForm(list(map(_dtype, xs)), xs[0].device, list(map(Tensor.numel, xs)))

    def fits(self, xs: Sequence[Tensor]) -> bool:
        """Return whether tensors have this form, and their numbers can be read by their addresses."""
        return (
            readable(xs)
            and list(map(_dtype, xs)) == self.dtypes
            and set(map(_device, xs)) == {self.device}
            and list(map(Tensor.numel, xs)) == self.sizes
        )


@dataclass(frozen=True)
class Unmoved:
    """Where several tensors lie, and in which form; it keeps none of them alive.

    Args:
        form: of all.
        at: their addresses.
    """

    form: LyingForm
    at: list[int]

    @staticmethod
    def of(xs: Sequence[Tensor]) -> "Unmoved":
        """Return where tensors lie now."""
        return Unmoved(LyingForm.of(xs), list(map(Tensor.data_ptr, xs)))

    def fits(self, xs: Sequence[Tensor]) -> bool:
        """Return whether tensors lie there, in the same form; they need not be the same objects."""
        return self.form.fits(xs) and list(map(Tensor.data_ptr, xs)) == self.at
