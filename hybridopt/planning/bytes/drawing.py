"""The bytes that drawing random directions takes for a moment, by running the code that draws them on a piece."""

from functools import cache

import torch

from ...core.contracts import Draw, Noise, Population
from ...core.numerics.direction_kernels import room
from ...core.numerics.directions import SMALL, Direction, together
from ...core.numerics.philox import words_of_many
from ...execution.probe_gradient import shifted
from ...execution.state import allocate
from ...policy.plan import Entry, Plan
from ..trace.tracker import Tracker

__all__ = ["Drawing"]

LARGEST = 1 << 19  # elements of a direction that are worked on at a time without compiling
BLOCK = 16  # bytes of random bits
CPU = torch.device("cpu")


class Drawing:
    """Bytes that directions take, by parameter and for all that are prepared together.

    Args:
        plan: which parameter is trained how.
        compiles: are directions added to weights by compiled kernels?
        device: "cuda" or "cpu", whose kernels count.
    """

    def __init__(self, plan: Plan, compiles: bool, device: str):
        self._compiles, self._device, self._seed = compiles, device, plan.seed
        self._probed = [e for e in plan.entries if e.treatment is not None and e.treatment.probed]
        self._known: dict[tuple, int] = {}
        self.alone = {e.param.name: self._room(e) for e in self._probed}

    @property
    def prepared(self) -> tuple[int, int]:
        """Return the bytes that directions of small parameters take during a step, and while they are worked out."""
        chosen = together([found for e in self._probed for found in self._small(e)])
        kept = BLOCK * sum(chosen.values())
        return kept, round(kept * _working())

    def noise(self, entry: Entry, index: int = 0) -> Noise:
        """Make direction `index` of a parameter."""
        p, source = entry.param, entry.treatment.source
        draw = Draw(self._seed, p.name, population=Population(((p.name, entry.numel),)))
        basis = {name: allocate(slot, CPU) for name, slot in source.slots(p.shape).items()}
        return source.noise(draw, p.shape, index, basis)

    def _small(self, entry):
        samples = entry.treatment.source.scheme.samples if entry.numel <= SMALL else 0
        noises = (self.noise(entry, index) for index in range(samples))
        found = (noise.drawn(entry.numel) for noise in noises if noise is not None)
        return [each for each in found if each]

    def _room(self, entry):
        key = entry.treatment.source, entry.param.shape, entry.param.dtype
        if key not in self._known:
            noise = self.noise(entry)
            kernels = self._compiles and isinstance(noise, Direction)
            told = entry.numel, entry.param.dtype
            self._known[key] = room(noise.kind, *told, self._device) if kernels else _eager(noise, *told)
        return self._known[key]


def _eager(noise, count, dtype):
    base = torch.zeros(min(count, LARGEST), dtype=dtype)
    with Tracker([base]) as tracker:
        shifted(base, 1.0, noise, False)
    return max(0, tracker.peak - base.nbytes)


@cache
def _working():
    """Return the peak of working out random bits, as a multiple of the bits themselves."""
    blocks = 1 << 10
    with Tracker() as tracker:
        words_of_many([1, 2], [blocks // 2] * 2, [(0, 0)] * 2, CPU)
    return tracker.peak / (BLOCK * blocks)
