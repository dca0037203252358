"""From declared slots to raw tensors: what one parameter keeps in one window, and how it is loaded and stored."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from .base import Part, Shape, Slot, State, stream
from .codecs.fp32 import Fp32
from .rounding import ahead
from .splits.empty import Empty
from .treatment import Treatment

__all__ = ["Job", "allocate", "basis", "declare", "keep", "load", "nbytes", "seen_as", "sliceable"]

EXACT = Fp32()
BASIS = "split."


@dataclass(frozen=True)
class Job:
    """Everything about one parameter's update that stays the same within a window."""

    treatment: Treatment
    part: Part
    shape: Shape  # as the update sees it
    arithmetic: torch.dtype = torch.float32

    @property
    def idle(self) -> bool:
        """Is the parameter left alone in this window?"""
        return isinstance(self.part, Empty) and getattr(self.treatment.free, "idle", False)


def seen_as(role: str, shape: Shape) -> Shape:
    """The shape in which a parameter is updated: a convolution kernel is the matrix [out, in * kernel]."""
    return (shape[0], math.prod(shape[1:])) if role == "conv" and len(shape) > 2 else tuple(shape)


@lru_cache(maxsize=4096)
def declare(job: Job) -> dict[str, Slot]:
    """Every raw tensor that the parameter keeps, by name: "exp_avg", "exp_avg_sq_absmax", "split.index" ..."""
    if 0 in job.shape:
        return {}
    out = {BASIS + name: _in(job, slot) for name, slot in job.part.slots(job.shape).items()}
    for name, slot in _slots(job).items():
        out |= {name + suffix: raw for suffix, raw in _codec(job, slot).raw(slot).items()}
    return out


def nbytes(job: Job) -> int:
    """Bytes of all raw tensors."""
    return sum(math.prod(slot.shape) * slot.dtype.itemsize for slot in declare(job).values())


def allocate(slot: Slot, device: torch.device) -> Tensor:
    """Zeros for a slot."""
    return torch.zeros(slot.shape, dtype=slot.dtype, device=device)


def basis(raw: State) -> State:
    """What the split keeps."""
    return {name.removeprefix(BASIS): x for name, x in raw.items() if name.startswith(BASIS)}


def load(job: Job, raw: State) -> State:
    """The rule's state, decoded."""
    return {name: _codec(job, slot).load(_raws(job, name, slot, raw), slot) for name, slot in _slots(job).items()}


def keep(job: Job, raw: State, state: State, key: int, row: int = 0) -> None:
    """Encode the rule's state back into the raw tensors; `row` is where a slice of them begins."""
    for name, slot in _slots(job).items():
        own = stream(key, name)
        own = ahead(own, row * state[name].shape[-1]) if row else own
        _codec(job, slot).store(_raws(job, name, slot, raw), state[name], slot, own)


def sliceable(job: Job) -> bool:
    """May the update run row by row: rules and codec element by element, the part without looking at other rows?"""
    t = job.treatment
    return t.full.local and t.free.local and t.codec.local and job.part.local


@lru_cache(maxsize=4096)
def _slots(job):
    low = job.part.shape(job.shape)
    return {} if low is None else {name: _in(job, slot) for name, slot in job.treatment.full.slots(low).items()}


def _in(job, slot):
    return replace(slot, dtype=job.arithmetic) if slot.dtype == torch.float32 else slot


def _codec(job, slot):
    return EXACT if slot.exact else job.treatment.codec


def _raws(job, name, slot, raw):
    return {suffix: raw[name + suffix] for suffix in _codec(job, slot).raw(slot)}
