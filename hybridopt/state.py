"""From declared slots to raw tensors: what one parameter keeps in one window, and how it is loaded and stored."""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from .base import Part, Shape, Slot, State, stream
from .codecs.fp32 import Fp32
from .rounding import Seed
from .splits.empty import Empty
from .treatment import Treatment

__all__ = [
    "BASIS",
    "Job",
    "allocate",
    "basis",
    "declare",
    "in_blocks",
    "keep",
    "load",
    "nbytes",
    "seeds",
    "seen_as",
    "sliceable",
    "unseeded",
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


def load(job: Job, raw: State, elementwise: bool) -> State:
    """The rule's state, decoded: what goes with the elements, or what is settled for the whole parameter."""
    chosen = {name: slot for name, slot in job.slots.items() if (name in job.elementwise) == elementwise}
    return {name: _codec(job, slot).load(_raws(job, name, slot, raw), slot) for name, slot in chosen.items()}


def keep(job: Job, raw: State, state: State, seeds: dict[str, Seed]) -> None:
    """Encode the rule's state back into the raw tensors."""
    for name, value in state.items():
        slot = job.slots[name]
        _codec(job, slot).store(_raws(job, name, slot, raw), value, slot, seeds[name])


def seeds(job: Job, key: int, row: int = 0) -> dict[str, Seed]:
    """Seeds for all that an update rounds, in a slice that begins at `row`: weight (""), its part, every slot."""
    return {name: Seed(key ^ _salt(name), row) for name in ("", "low", *job.slots)}


def unseeded(job: Job) -> dict[str, None]:
    """In place of seeds, where nothing is rounded at random."""
    return dict.fromkeys(("", "low", *job.slots))


@lru_cache(maxsize=1024)
def _salt(name):
    return stream(name) if name else 0


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


def _codec(job, slot):
    return EXACT if slot.exact else job.treatment.codec


def _raws(job, name, slot, raw):
    return {suffix: raw[name + suffix] for suffix in _codec(job, slot).raw(slot)}
