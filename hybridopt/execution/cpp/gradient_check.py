"""The check of gradients by kernels: all of them are read once, before anything is changed."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...core.contracts import RepeatedCheck
from ..gradient_check import GradientCheck, UncheckedGradient
from ..printing.cpp.rounds import RoundsLayout
from ..tensor_guards import readable
from ..update_task import in_memory
from . import builder
from .call import KernelCall
from .layouts import layout_of, text_of
from .stacks import cut, places

__all__ = ["TEXT", "Finite", "finite", "check_gradients"]

TEXT = """\
// Printed from the check for NaN and infinity.
#include "same.h"

extern "C" void hybridopt_run(const Given* given) { not_finite(*given); }
extern "C" void hybridopt_look(const Given* given) { not_same(*given); }
"""
BITS = {torch.float32: (4, 0x7F800000), torch.bfloat16: (2, 0x7F80), torch.float16: (2, 0x7C00)}  # bytes, infinity
CPU = torch.device("cpu")  # whatever the default device is
TOGETHER = 16  # floats of a line of the cache
IN_CACHE = 1 << 20  # elements whose rounds one thread makes (SMALL in rounds.h): read from memory once by all of them
Some = Sequence[UncheckedGradient]


def check_gradients(gradients: Some) -> dict[str, GradientCheck]:
    """Return whether gradients in memory are finite, and what rules with rounds find in theirs.

    Those that an update begins with are read last.

    Args:
        gradients: on a CPU, in the order of the updates.
    """
    all_lie = readable([one.grad for one in gradients])
    lying = [x for x in gradients if x.grad.dtype in BITS and (all_lie or in_memory(x.grad, x.grad.device))]
    if not lying or not builder.usable():  # updates say what they miss, if they do
        return {}
    rounds: dict[RoundsLayout, list[UncheckedGradient]] = {}
    plain: list[UncheckedGradient] = []
    for one in reversed(lying):
        layout = _rounds(one) if one.job.rounds else None
        (plain if layout is None else rounds.setdefault(layout, [])).append(one)
    builder.build([TEXT, *map(text_of, rounds)])
    found: dict[str, GradientCheck] = {}
    for layout, same in rounds.items():
        kernel = builder.function(text_of(layout), builder.LOOK)
        if kernel is None:
            plain += same
        else:
            found |= _looked(kernel, layout, same)
    kernel = builder.function(TEXT)
    return found if kernel is None or not plain else found | _checked(kernel, plain)


def finite(grads: Sequence[Tensor]) -> "Finite | None":
    """Return a check of gradients of this form for many steps; None where there is no kernel for them."""
    if not BITS.keys() >= {grad.dtype for grad in grads} or not builder.usable():
        return None
    builder.build([TEXT])
    kernel = builder.function(TEXT)
    return None if kernel is None else Finite(kernel, grads)


class Finite(RepeatedCheck):
    """One call of the kernel in every step, with one flag for all gradients; those of the first updates are read last.

    Args:
        kernel: that of `TEXT`.
        grads: gradients of this form.
    """

    def __init__(self, kernel: Callable[..., None], grads: Sequence[Tensor]):
        self._flag = torch.zeros(1, dtype=torch.int32, device=CPU)
        self._call = KernelCall(
            kernel, [(x, self._flag) for x in grads[::-1]], list(map(_sizes, grads[::-1])), 0, 0, grad=0
        )

    def finite(self, grads: Sequence[Tensor]) -> bool:
        """Return whether no gradient has NaN or infinity."""
        self._flag.zero_()
        self._call.run(grads[::-1], (), ())
        return not self._flag.item()


def _sizes(grad: Tensor) -> tuple[int, int, int]:
    """Return what the check is told of a gradient: bytes of a number, how many there are, the bits of infinity."""
    size, infinity = BITS[grad.dtype]
    return size, grad.numel(), infinity


def _rounds(one: UncheckedGradient) -> RoundsLayout | None:
    """Return the layout of a kernel whose first look reads this gradient; None where there is none."""
    job = one.job
    large = prod(job.shape[-2:]) > IN_CACHE and one.grad.numel() > 0  # each of a stack of matrices
    if not (one.alone and job.rounds and one.store and large) or job.in_blocks is not job:
        return None
    store: Any = one.store
    layout = layout_of(job, store, one.param.dtype, one.grad.dtype)
    return layout if isinstance(layout, RoundsLayout) and layout.looks_first else None


def _checked(kernel: Callable[..., None], some: Some) -> dict[str, GradientCheck]:
    flags = torch.zeros(len(some), dtype=torch.int32, device=CPU)
    tensors = [(one.grad, flag) for one, flag in zip(some, flags, strict=True)]
    KernelCall(kernel, tensors, [_sizes(one.grad) for one in some], 0, 0).run(None, (), ())
    return {one.name: GradientCheck(not bad) for one, bad in zip(some, flags.tolist(), strict=True)}


def _looked(kernel: Callable[..., None], layout: RoundsLayout, some: Some) -> dict[str, GradientCheck]:
    flags, sizes = torch.zeros(len(some), dtype=torch.int32, device=CPU), [places(one.job, layout) for one in some]
    counts = [layout.looked(*one.job.shape[-2:]) for one in some]
    rooms = [len(own) * (-(-count // TOGETHER) * TOGETHER) for own, count in zip(sizes, counts, strict=True)]
    numbers = torch.empty(sum(rooms), dtype=torch.float32, device=CPU).split(rooms)
    none = [torch.empty(0, device=CPU)] * len(layout.state)
    tensors = [
        [*parts, *none, x, flag]
        for one, own, found, flag in zip(some, sizes, numbers, flags, strict=True)
        for *parts, x in zip(*(cut(t, len(own)) for t in (one.param, one.grad, found)), strict=True)
    ]
    KernelCall(kernel, tensors, [size for own in sizes for size in own], 0, 0).run(None, (), ())
    each = zip(some, flags.tolist(), numbers, strict=True)
    return {one.name: GradientCheck(not bad, layout, x) for one, bad, x in each}
