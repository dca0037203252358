"""Tasks of tensors that hold nothing, by which a plan asks backends what they take."""

import torch
from torch import Tensor

from ..parts.stores._int8_weight import Int8Weight
from ..policy.job import Job, declare
from .state import allocate
from .update_task import Task

__all__ = ["unfilled"]


def unfilled(name: str, job: Job, dtype: torch.dtype, codes: torch.dtype | None) -> Task:
    """Make the task of a parameter from empty tensors, on the default device (meta, or of a fake mode).

    Args:
        name: of the parameter.
        job: what is done to it.
        dtype: of the weight and its gradient.
        codes: the dtype in which the weight is kept, where it is kept as codes.
    """
    grad = torch.empty(job.shape, dtype=dtype)
    raw = {key: allocate(slot, grad.device) for key, slot in declare(job).items()}
    store = job.treatment.store_for(codes or dtype)
    assert store is not None  # or the plan would have been refused
    return Task(_weight(job, dtype, codes), grad, raw, job, store, 1e-3, 1.0, 1, (0, name), 0)


def _weight(job, dtype, codes) -> Tensor:
    weight = torch.empty(job.shape, dtype=dtype)
    return weight if codes is None else Int8Weight.quantize(weight)
