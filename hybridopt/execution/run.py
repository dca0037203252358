"""Carry out updates by whatever is fastest; all ways compute the same."""

from collections.abc import Iterable

from . import banks, compiled, native
from .slices import update_in_slices
from .task import Task

__all__ = ["run"]


def run(tasks: Iterable[Task], compile: bool) -> None:
    """Carry out all tasks: by torch's own kernels, in banks, and the others one by one, compiled or in slices."""
    known, small, others = [], [], []
    for task in tasks:
        (known if native.fits(task) else small if banks.fits(task) else others).append(task)
    native.run(known)
    banks.run(small)
    told: dict = {}
    for t in (task.in_blocks() for task in others):
        if compile and compiled.fits(t):
            compiled.run(t, told)
        else:
            update_in_slices(t.param, t.grad, t.raw, t.job, t.store, t.now(), t.key)
