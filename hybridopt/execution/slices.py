"""An update in slices, so that its temporaries stay in the cache and never reach the size of the parameter."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from .base import State, Store
from .state import Job, sliceable
from .update import Now, update

__all__ = ["ELEMENTS", "update_in_slices"]

ELEMENTS = {"cpu": 1 << 17}  # 512 KiB of float32: a few temporaries fit into a core's caches
ELSEWHERE = 1 << 26  # on an accelerator a slice only bounds memory


def update_in_slices(param: Tensor, grad: Tensor, raw: State, job: Job, store: Store, now: Now) -> None:
    """`update`, slice by slice where every axis works element by element or row by row; the result is the same."""
    size = ELEMENTS.get(param.device.type, ELSEWHERE)
    if param.numel() <= size or not param.is_contiguous() or not sliceable(job):
        return update(param, grad, raw, job, store, now)
    for row, *views in _slices(param, grad, raw, job, size):
        update(*views, job, store, replace(now, row=row))


def _slices(param: Tensor, grad: Tensor, raw: State, job: Job, size: int) -> Iterator[tuple]:
    """First row, then views of param, grad and raw state from there on."""
    width = job.shape[-1] if job.part.slots(job.shape) else 1
    weights, grads = param.view(-1, width), grad.reshape(-1, width)
    rows = len(weights)
    state = {k: x if k.startswith("split.") else x.view(rows, -1) for k, x in raw.items()}
    step = max(1, size // width)
    for row in range(0, rows, step):
        cut = slice(row, row + step)
        part = {k: x if k.startswith("split.") else x[cut] for k, x in state.items()}
        yield row, weights[cut], grads[cut], part
