"""Tensors that lie where they lay, in the same form: what was derived from their addresses still holds."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from .update_task import PLAIN

guards: Any = None
with suppress(ImportError):  # torch's own, of no public interface
    from torch._C._dynamo import guards

__all__ = ["LyingForm", "Unmoved", "readable"]

TYPES = frozenset(PLAIN)
_dtype, _device, _is_cpu = attrgetter("dtype"), attrgetter("device"), attrgetter("is_cpu")


def readable(xs: Sequence[Tensor]) -> bool:
    """Return whether the numbers of all tensors can be read by their addresses, and each has some.

    That is not so for subclasses, views that negate, and zeros without memory.
    """
    return _in_order(xs) and all(map(Tensor.data_ptr, xs))


def _in_order(xs: Sequence[Tensor]) -> bool:
    """Return what `readable` does, but of tensors that may have no memory."""
    return TYPES.issuperset(map(type, xs)) and all(map(Tensor.is_contiguous, xs)) and not any(map(Tensor.is_neg, xs))


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
    _alike: list[Any] = field(default_factory=list, compare=False, repr=False)  # of `_guarding`

    @staticmethod
    def of(xs: Sequence[Tensor]) -> "LyingForm":
        """Return the form of tensors, of which the first one tells the device."""
        return LyingForm(list(map(_dtype, xs)), xs[0].device, list(map(Tensor.numel, xs)))

    def fits(self, xs: Sequence[Tensor]) -> bool:
        """Return whether tensors have this form, and their numbers can be read by their addresses."""
        return self.holds(xs) and all(map(Tensor.data_ptr, xs))

    def holds(self, xs: Sequence[Tensor]) -> bool:
        """Return what `fits` does, but of tensors that may have no memory.

        Those that are in all ways as others that had this form are recognized by one call of torch.
        """
        if not TYPES.issuperset(map(type, xs)):
            return False
        if self._alike and len(xs) == len(self.sizes) and self._alike[0].check(*xs):
            return True
        found = self._found(xs)
        if found and not self._alike:
            self._alike.extend(_guarding(xs))
        return found

    def _found(self, xs):
        return (
            _in_order(xs)
            and list(map(_dtype, xs)) == self.dtypes
            and list(map(Tensor.numel, xs)) == self.sizes
            and (all(map(_is_cpu, xs)) if self.device.type == "cpu" else set(map(_device, xs)) == {self.device})
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
        return self.form.holds(xs) and list(map(Tensor.data_ptr, xs)) == self.at and all(self.at)


def _guarding(xs: Sequence[Tensor]) -> list[Any]:
    """Return what recognizes tensors of the same types, dtypes, devices, shapes, strides and dispatch keys, if any."""
    with suppress(AttributeError, TypeError, RuntimeError):
        return [guards.TensorGuards(*xs, dynamic_dims_sizes=None, dynamic_dims_strides=None)]
    return []
