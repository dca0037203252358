"""Optimizer state as tensors: make, decode and encode it, for one parameter in one window."""

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from ..core.contracts import Slot, State, stream
from ..core.numerics.rounding import Seed, Seeding
from ..policy.job import Job

__all__ = ["allocate", "basis", "keep", "load", "rounded", "seeds"]


def allocate(slot: Slot, device: torch.device) -> Tensor:
    """Make a tensor of zeros for a slot."""
    return torch.zeros(slot.shape, dtype=slot.dtype, device=device)


def basis(job: Job, raw: State) -> State:
    """Return what the split keeps, as the split calls it."""
    found = {}
    for name, key in job.basis.items():
        found[name] = raw[key]
    return found


def load(job: Job, raw: State, elementwise: bool) -> State:
    """Decode the rule's state.

    Args:
        job: the parameter's update.
        raw: its raw state tensors by name.
        elementwise: True for the slots that go with the elements, False for those that are settled for all of them.
    """
    state = {}
    for name, kept in job.kept.items():
        if kept.elementwise == elementwise:
            own = {}
            for suffix, key in kept.raw:
                own[suffix] = raw[key]
            state[name] = kept.codec.load(own, kept.slot)
    return state


def keep(job: Job, raw: State, state: State, seeds: Mapping[str, Seeding]) -> None:
    """Encode the rule's state back into the raw tensors.

    Args:
        job: the parameter's update.
        raw: its raw state tensors by name, which are written.
        state: what `load` returned, or a part of it.
        seeds: for rounding, by slot.
    """
    for name, value in state.items():
        kept, own = job.kept[name], {}
        for suffix, key in kept.raw:
            own[suffix] = raw[key]
        kept.codec.store(own, value, kept.slot, seeds[name])


def seeds(job: Job, key: int, row: int = 0) -> dict[str, Seed]:
    """Make the seeds for all that an update rounds at random.

    Args:
        job: the parameter's update.
        key: of the parameter in this step.
        row: at which the slice begins.

    Returns:
        Seeds of the weight (""), of its state-full part ("low") and of every slot.
    """
    return {name: Seed(key ^ _salt(name), row) for name in ("", "low", *job.slots)}


@lru_cache(maxsize=4096)
def rounded(job: Job, weight: bool) -> tuple[str, ...]:
    """Return the names of the seeds, as `seeds` has them, by which something is rounded at random.

    Args:
        job: the parameter's update.
        weight: is the weight itself rounded at random?
    """
    weights = ("", "low") if job.separate else ("",)
    slots = (
        name for name, kept in job.kept.items() if kept.codec.random and kept.codec.raw(kept.slot) != {"": kept.slot}
    )
    return (*(weights if weight else ()), *slots)


@lru_cache(maxsize=1024)
def _salt(name):
    return stream(name) if name else 0
