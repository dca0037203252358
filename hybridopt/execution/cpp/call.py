"""The call of a kernel: addresses of tensors, their sizes, keys and numbers, as `skeleton/chunks.h` reads them."""

import ctypes
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ...core.numerics.rounding import tables

__all__ = ["KernelCall"]

LEAST, WIDEST = 1 << 12, 1 << 16  # columns whose hashes are looked up; those of wider rows are worked out
CPU = torch.device("cpu")
GRAD = 1  # its place among the tensors of a parameter that is updated
_forked: set[str] = set()  # something, in a process that was forked


class CallArguments(ctypes.Structure):
    """What a kernel is told; the struct `Given` of `chunks.h`."""

    _fields_ = [
        ("tasks", ctypes.c_int64),
        ("at", ctypes.c_void_p),
        ("tensors", ctypes.c_int64),
        ("sizes", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("of_keys", ctypes.c_int64),
        ("numbers", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("known", ctypes.c_int64),
        ("threads", ctypes.c_int64),
    ]


class KernelCall:
    """A kernel and the parameters that it updates: told once where they lie, and in every call what is new.

    Args:
        kernel: that `builder.function` has returned.
        tensors: of every parameter, contiguous, in the order in which the kernel names them. Whoever calls sees to it
            that they are still there.
        sizes: of every parameter rows, columns, how many of them are chosen, and the rows of the whole that come
            before, if there are any.
        rounded: how many keys a parameter has.
        widest: columns of the widest, where something is rounded at random.
        grad: the place of the gradient among the tensors of a parameter.
    """

    def __init__(
        self,
        kernel: Callable[..., None],
        tensors: Sequence[Sequence[Tensor]],
        sizes: Sequence[tuple[int, ...]],
        rounded: int,
        widest: int,
        grad: int = GRAD,
    ):
        self._kernel, self._count, self._each, self._rounded = kernel, len(tensors), len(tensors[0]), rounded
        self._grad = grad
        self._at = array("Q", [x.data_ptr() for some in tensors for x in some])
        self._sizes = array("q", [n for some in sizes for n in (*some, 0)[:4]])
        self._columns = tables(min(max(widest, LEAST), WIDEST), CPU)[1]

    def run(self, grads: Sequence[Tensor] | None, keys: Iterable[int], numbers: Iterable[float]) -> None:
        """Update all parameters.

        Args:
            grads: their gradients, contiguous; None: those that it was told of.
            keys: of every parameter those of what is rounded at random, 63 bits each.
            numbers: of the step.
        """
        if grads is not None:
            self._at[self._grad :: self._each] = array("Q", map(Tensor.data_ptr, grads))
        of_keys, floats = array("Q", keys), array("f", numbers)
        given = CallArguments(
            self._count,
            self._at.buffer_info()[0],
            self._each,
            self._sizes.buffer_info()[0],
            of_keys.buffer_info()[0],
            self._rounded,
            floats.buffer_info()[0],
            self._columns.data_ptr(),
            len(self._columns) - 16,  # kernels read sixteen at a time
            1 if _forked else torch.get_num_threads(),
        )
        self._kernel(ctypes.byref(given))


if sys.platform != "win32":  # which has no forks
    # a forked child has its parent's team of OpenMP, without the threads: waiting for them would never end
    os.register_at_fork(after_in_child=lambda: _forked.add(""))
