"""State as tensors: made, loaded and kept by its codec, for one parameter in one window."""

from functools import lru_cache

import torch
from torch import Tensor

from ..core.contracts import Slot, State, stream
from ..core.numerics.rounding import Seed
from ..policy.job import BASIS, Job, codec_of

__all__ = ["allocate", "basis", "keep", "load", "seeds", "unseeded"]


def allocate(slot: Slot, device: torch.device) -> Tensor:
    """Zeros for a slot."""
    return torch.zeros(slot.shape, dtype=slot.dtype, device=device)


def basis(raw: State) -> State:
    """What the split keeps."""
    return {name.removeprefix(BASIS): x for name, x in raw.items() if name.startswith(BASIS)}


def load(job: Job, raw: State, elementwise: bool) -> State:
    """The rule's state, decoded: what goes with the elements, or what is settled for the whole parameter."""
    chosen = {name: slot for name, slot in job.slots.items() if (name in job.elementwise) == elementwise}
    return {name: codec_of(job, slot).load(_raws(job, name, slot, raw), slot) for name, slot in chosen.items()}


def keep(job: Job, raw: State, state: State, seeds: dict[str, Seed]) -> None:
    """Encode the rule's state back into the raw tensors."""
    for name, value in state.items():
        slot = job.slots[name]
        codec_of(job, slot).store(_raws(job, name, slot, raw), value, slot, seeds[name])


def seeds(job: Job, key: int, row: int = 0) -> dict[str, Seed]:
    """Seeds for all that an update rounds, in a slice that begins at `row`: weight (""), its part, every slot."""
    return {name: Seed(key ^ _salt(name), row) for name in ("", "low", *job.slots)}


def unseeded(job: Job) -> dict[str, None]:
    """In place of seeds, where nothing is rounded at random."""
    return dict.fromkeys(("", "low", *job.slots))


@lru_cache(maxsize=1024)
def _salt(name):
    return stream(name) if name else 0


def _raws(job, name, slot, raw):
    return {suffix: raw[name + suffix] for suffix in codec_of(job, slot).raw(slot)}
