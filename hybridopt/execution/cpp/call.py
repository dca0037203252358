"""The call of a kernel: addresses of tensors, their sizes, keys and numbers, as `skeleton/chunks.h` reads them."""

import ctypes
import os
import sys
from array import array
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...core.numerics.rounding import tables

__all__ = ["call"]

LEAST, WIDEST = 1 << 12, 1 << 16  # columns whose hashes are looked up; those of wider rows are worked out
CPU = torch.device("cpu")
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


def call(
    kernel: Callable[..., None],
    tensors: Sequence[Sequence[Tensor]],
    sizes: Sequence[tuple[int, int, int]],
    keys: Sequence[Sequence[int]],
    numbers: Sequence[float],
    widest: int,
) -> None:
    """Call a kernel on a list of parameters that share it.

    Args:
        kernel: that `builder.function` has returned.
        tensors: of every parameter, contiguous, in the order in which the kernel names them.
        sizes: of every parameter rows, columns, and how many of them are chosen.
        keys: of every parameter those of what is rounded at random, 63 bits each.
        numbers: of the step.
        widest: columns of the widest.
    """
    at = array("Q", [x.data_ptr() for some in tensors for x in some])
    of_sizes, of_keys = array("q", [n for some in sizes for n in some]), array("Q", [k for some in keys for k in some])
    floats = array("f", numbers)
    columns = tables(min(max(widest, LEAST), WIDEST), CPU)[1]
    given = CallArguments(
        len(tensors),
        at.buffer_info()[0],
        len(tensors[0]),
        of_sizes.buffer_info()[0],
        of_keys.buffer_info()[0],
        len(keys[0]),
        floats.buffer_info()[0],
        columns.data_ptr(),
        len(columns) - 16,  # kernels read sixteen at a time
        1 if _forked else torch.get_num_threads(),
    )
    kernel(ctypes.byref(given))


if sys.platform != "win32":  # which has no forks
    # a forked child has its parent's team of OpenMP, without the threads: waiting for them would never end
    os.register_at_fork(after_in_child=lambda: _forked.add(""))
