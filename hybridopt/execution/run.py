"""Carry out updates by whatever is fastest; all ways compute the same."""

from collections.abc import Iterable

from .backends import banks, compiled, native
from .slices import update_in_slices
from .task import Task

__all__ = ["run"]


def run(tasks: Iterable[Task], compile: bool) -> None:
    """Carry out all tasks: by torch's own kernels, in banks, compiled, or else one by one in slices."""
    known, small, large, others = [], [], [], []
    for task in tasks:
        if native.fits(task):
            known.append(task)
        elif banks.fits(task):
            small.append(task)
        else:
            task = task.in_blocks()
            (large if compile and compiled.fits(task) else others).append(task)
    native.run(known)
    banks.run(small)
    compiled.run(large)
    for t in others:
        update_in_slices(t.param, t.grad, t.raw, t.job, t.store, t.now(), t.key)
