"""One parameter in one window: how it is seen, cut, and what state it declares; no tensor is made here."""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch

from ..core.contracts import Codec, Part, Rule, Shape, Slot
from ..core.contracts.check import check_part
from ..parts.codecs.fp32 import Fp32
from .treatment import Treatment

__all__ = [
    "BASIS",
    "WEIGHT",
    "Job",
    "Kept",
    "arithmetic",
    "codec_of",
    "declare",
    "nbytes",
    "of_blocks",
    "seen_as",
    "sliceable",
    "with_elements",
]

EXACT = Fp32()
BASIS = "split."
WEIGHT = "weight."


@dataclass(frozen=True)
class Kept:
    """One slot of a rule's state between two steps.

    Args:
        slot: as the rule declares it.
        codec: what encodes it.
        raw: (suffix of the codec, name in the state) of every raw tensor, such as ("_absmax", "exp_avg_absmax").
        elementwise: does `update` change it, slice by slice, or `settle`, for the whole parameter?
    """

    slot: Slot
    codec: Codec
    raw: tuple[tuple[str, str], ...]
    elementwise: bool

    @staticmethod
    def of(job: "Job", name: str, slot: Slot) -> "Kept":
        """Return how a slot is kept.

        Args:
            job: the parameter's update.
            name: of the slot.
            slot: as the job has it.
        """
        codec = codec_of(job, slot)
        raw = tuple((suffix, name + suffix) for suffix in codec.raw(slot))
        return Kept(slot, codec, raw, name in job.elementwise)


@dataclass(frozen=True)
class Job:
    """Everything about one parameter's update that stays the same within a window."""

    treatment: Treatment
    part: Part
    shape: Shape  # as the update sees it
    arithmetic: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        check_part(f"{type(self.treatment.split).__name__}.at", "part", self.part, Part)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.treatment, self.part, self.shape, self.arithmetic))

    @cached_property
    def low(self) -> Shape | None:
        """Return the shape of the state-full part; None where there is none."""
        return self.part.shape(self.shape)

    @cached_property
    def slots(self) -> dict[str, Slot]:
        """Return the slots of the state-full rule, by name, in the dtype of the arithmetic."""
        if self.low is None:
            return {}
        return {name: _in(self, slot) for name, slot in self.treatment.full.slots(self.low).items()}

    @cached_property
    def elementwise(self) -> frozenset[str]:
        """Return the names of slots that `update` moves, cut into slices with the elements; `settle` moves others."""
        whole = self.treatment.full.looks is None
        return frozenset(k for k, slot in self.slots.items() if whole or (slot.shape == self.low and not slot.settled))

    @cached_property
    def kept(self) -> dict[str, Kept]:
        """Return how every slot is kept: its codec, and the raw tensors that the codec makes of it."""
        return {name: Kept.of(self, name, slot) for name, slot in self.slots.items()}

    @cached_property
    def basis(self) -> dict[str, str]:
        """Return the raw tensors of the split, as it calls them and as the state does: {"index": "split.index"}."""
        return {name: BASIS + name for name in self.part.slots(self.shape)}

    @cached_property
    def beside(self) -> dict[str, str]:
        """Return what of the weight lies in the state, as the store calls it and as the state does: "weight.low"."""
        store = self.treatment.store
        return {} if store is None else {name: WEIGHT + name for name in store.slots(self.shape)}

    @cached_property
    def rules(self) -> tuple[tuple[str, Rule], ...]:
        """Return (axis, rule) of the rules at work in this window: "full", "free" or both."""
        full = () if self.low is None else (("full", self.treatment.full),)
        return full if self.part.covers else (*full, ("free", self.treatment.free))

    @cached_property
    def rounds(self) -> int:
        """Return how often the rules must look at the whole parameter before it is written."""
        return max([rule.looks or 0 for _, rule in self.rules], default=0)

    @cached_property
    def looked_at(self) -> bool:
        """Return whether no rule at work needs the matrix in one piece."""
        return all(rule.looks is not None for _, rule in self.rules)

    @cached_property
    def unseeded(self) -> dict[str, None]:
        """Return None in place of every seed, where nothing is rounded at random."""
        return dict.fromkeys(("", "low", *self.slots))

    @cached_property
    def in_blocks(self) -> "Job":
        """Return the same update with a block of the codec in every row, where no rule or part needs its own rows."""
        block = self.treatment.codec.block
        free = all(rule.local for _, rule in self.rules) and not self.basis
        fits = block and free and math.prod(self.shape) % block == 0 and self.slots
        return replace(self, shape=(math.prod(self.shape) // block, block)) if fits else self

    @cached_property
    def separate(self) -> bool:
        """Return whether both parts can be written one after the other, as every entry belongs to one of them."""
        return self.part.disjoint and not self.part.covers and self.treatment.free.local and not self.beside

    @cached_property
    def idle(self) -> bool:
        """Return whether the parameter is left alone in this window."""
        return self.part.empty and self.treatment.free.idle


def seen_as(role: str, shape: Shape, treatment: Treatment) -> Shape:
    """Return the shape in which a parameter is updated.

    A convolution kernel is the matrix [out, in * kernel], and a vector [1, n] where a rule at work is not local.

    Args:
        role: of the parameter.
        shape: of the parameter.
        treatment: of the parameter.
    """
    if role == "conv" and len(shape) > 2:
        shape = (shape[0], math.prod(shape[1:]))
    local = all(rule.local for rule in treatment.acting)
    return tuple(shape) if local else (1,) * (2 - len(shape)) + tuple(shape)


@lru_cache(maxsize=4096)
def declare(job: Job) -> dict[str, Slot]:
    """Declare every raw tensor that the parameter keeps, by name: "exp_avg", "exp_avg_sq_absmax", "split.index" ..."""
    if 0 in job.shape:
        return {}
    out = {BASIS + name: _in(job, slot) for name, slot in job.part.slots(job.shape).items()}
    for name, slot in job.slots.items():
        out |= {name + suffix: raw for suffix, raw in codec_of(job, slot).raw(slot).items()}
    if job.treatment.store is not None:
        out |= {WEIGHT + name: slot for name, slot in job.treatment.store.slots(job.shape).items()}
    return out


def nbytes(job: Job) -> int:
    """Return the bytes of all raw tensors of one parameter."""
    return sum(math.prod(slot.shape) * slot.dtype.itemsize for slot in declare(job).values())


def sliceable(job: Job) -> bool:
    """Return whether it may run row by row: no rule needs the matrix in one piece, no part or codec other rows."""
    codec, low = job.treatment.codec, job.low
    whole_blocks = codec.local or not job.elementwise or (low is not None and low[-1:] == (codec.block,))
    return job.looked_at and whole_blocks and job.part.local


def with_elements(job: Job) -> set[str]:
    """Return the names of the raw tensors that are cut into slices of rows with the elements."""
    return set(job.elementwise) | of_blocks(job) | set(job.beside.values())


def of_blocks(job: Job) -> set[str]:
    """Return the names of the raw tensors that have a number for each block of the elements."""
    named = {name + suffix for name in job.elementwise for suffix in job.treatment.codec.beside}
    return named & declare(job).keys()  # small slots stay exact


def _in(job: Job, slot: Slot) -> Slot:
    return replace(slot, dtype=job.arithmetic) if slot.dtype == torch.float32 else slot


def codec_of(job: Job, slot: Slot) -> Codec:
    """Return the codec of a slot: the treatment's, or for exact slots `EXACT`."""
    return EXACT if slot.exact else job.treatment.codec


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which weights of `dtype` are updated: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32
