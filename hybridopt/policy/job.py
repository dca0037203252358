"""One parameter in one window: how it is seen, cut, and what state it declares; no tensor is made here."""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch

from ..core.contracts import Codec, Part, Shape, Slot
from ..parts.codecs.fp32 import Fp32
from ..parts.splits.empty import Empty
from .treatment import Treatment

__all__ = [
    "BASIS",
    "Job",
    "arithmetic",
    "codec_of",
    "declare",
    "in_blocks",
    "nbytes",
    "seen_as",
    "sliceable",
    "with_elements",
]

EXACT = Fp32()
BASIS = "split."


@dataclass(frozen=True)
class Job:
    """Everything about one parameter's update that stays the same within a window."""

    treatment: Treatment
    part: Part
    shape: Shape  # as the update sees it
    arithmetic: torch.dtype = torch.float32

    def __hash__(self):
        return self._hash

    @cached_property
    def _hash(self):
        return hash((self.treatment, self.part, self.shape, self.arithmetic))

    @cached_property
    def slots(self) -> dict[str, Slot]:
        """The slots of the state-full rule."""
        low = self.part.shape(self.shape)
        return {} if low is None else {name: _in(self, slot) for name, slot in self.treatment.full.slots(low).items()}

    @cached_property
    def elementwise(self) -> frozenset[str]:
        """Names of the slots that `update` changes, cut into slices with the elements; the others are for `settle`."""
        low = self.part.shape(self.shape)
        whole = self.treatment.full.looks is None
        return frozenset(k for k, slot in self.slots.items() if whole or (slot.shape == low and not slot.settled))

    @property
    def idle(self) -> bool:
        """Is the parameter left alone in this window?"""
        return isinstance(self.part, Empty) and getattr(self.treatment.free, "idle", False)


def seen_as(role: str, shape: Shape, treatment: Treatment) -> Shape:
    """The shape in which a parameter is updated.

    A convolution kernel is the matrix [out, in * kernel]; a rule that is not local sees vectors as matrices [1, n].
    """
    if role == "conv" and len(shape) > 2:
        shape = (shape[0], math.prod(shape[1:]))
    local = treatment.full.local and treatment.free.local
    return tuple(shape) if local else (1,) * (2 - len(shape)) + tuple(shape)


@lru_cache(maxsize=4096)
def declare(job: Job) -> dict[str, Slot]:
    """Every raw tensor that the parameter keeps, by name: "exp_avg", "exp_avg_sq_absmax", "split.index" ..."""
    if 0 in job.shape:
        return {}
    out = {BASIS + name: _in(job, slot) for name, slot in job.part.slots(job.shape).items()}
    for name, slot in job.slots.items():
        out |= {name + suffix: raw for suffix, raw in codec_of(job, slot).raw(slot).items()}
    return out


def nbytes(job: Job) -> int:
    """Bytes of all raw tensors."""
    return sum(math.prod(slot.shape) * slot.dtype.itemsize for slot in declare(job).values())


def sliceable(job: Job) -> bool:
    """May it run row by row: no rule wants the matrix in one piece, no part and no codec looks at other rows?"""
    t = job.treatment
    low = job.part.shape(job.shape)
    whole_blocks = t.codec.local or not job.elementwise or (low is not None and low[-1:] == (t.codec.block,))
    return t.full.looks is not None and t.free.looks is not None and whole_blocks and job.part.local


def with_elements(job: Job) -> set[str]:
    """Names of the raw tensors that are cut into slices of rows with the elements."""
    beside = getattr(job.treatment.codec, "beside", ())
    return set(job.elementwise) | {name + suffix for name in job.elementwise for suffix in beside}


def in_blocks(job: Job) -> Job:
    """The same update with a block of the codec in every row, where no rule and no part asks for rows of its own."""
    block = getattr(job.treatment.codec, "block", 0)
    free = job.treatment.full.local and job.treatment.free.local and not job.part.slots(job.shape)
    fits = block and free and math.prod(job.shape) % block == 0 and job.slots
    return replace(job, shape=(math.prod(job.shape) // block, block)) if fits else job


def _in(job, slot):
    return replace(slot, dtype=job.arithmetic) if slot.dtype == torch.float32 else slot


def codec_of(job: Job, slot: Slot) -> Codec:
    """What keeps a slot."""
    return EXACT if slot.exact else job.treatment.codec


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 weights, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32
