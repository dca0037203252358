"""The bytes that drawing random directions takes for a moment, by running the code that draws them on a piece."""

from functools import cache, cached_property
from typing import cast

import torch

from ...core.contracts import Draw, Noise, Population
from ...core.numerics.direction_kernels import room
from ...core.numerics.directions import SMALL, Direction, together
from ...core.numerics.noise_tables import table
from ...core.numerics.philox import words_of_many
from ...execution.probe_gradient import shifted
from ...execution.state import allocate
from ...policy.plan import Entry, Plan
from ...policy.treatment import Treatment
from ..trace.tracker import Tracker

__all__ = ["Drawing"]

LARGEST = 1 << 19  # elements of a direction that a CPU works on at a time without compiling
BLOCK = 16  # bytes of random bits
CPU = torch.device("cpu")
META = torch.device("meta")  # where pieces are as large as on accelerators


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

    @cached_property
    def kinds(self) -> set[str]:
        """Return the kinds of noise that are drawn; bases of directions are made of normal numbers."""
        return {_kind(self.noise(e)) for e in self._probed}

    @property
    def prepared(self) -> tuple[int, int]:
        """Return the bytes that directions of small parameters take during a step, and while they are worked out."""
        chosen = together([found for e in self._probed for found in self._small(e)])
        kept = BLOCK * sum(chosen.values())
        return kept, round(kept * _working())

    def noise(self, entry: Entry, index: int = 0, device: torch.device = CPU) -> Noise:
        """Make a direction of a parameter.

        Args:
            entry: the parameter.
            index: which direction of a step.
            device: of the bases that some are made of.
        """
        p, source = entry.param, cast(Treatment, entry.treatment).source
        draw = Draw(self._seed, p.name, population=Population(((p.name, entry.numel),)))
        basis = {name: allocate(slot, device) for name, slot in source.slots(p.shape).items()}
        return cast(Noise, source.noise(draw, p.shape, index, basis))

    def _small(self, entry):
        samples = entry.treatment.source.scheme.samples if entry.numel <= SMALL else 0
        noises = (self.noise(entry, index) for index in range(samples))
        found = (noise.drawn(entry.numel) for noise in noises)
        return [each for each in found if each]

    def _room(self, entry):
        key = entry.treatment.source, entry.param.shape, entry.param.dtype
        if key not in self._known:
            cuda = self._device == "cuda"
            noise = self.noise(entry, device=META if cuda else CPU)
            told = entry.numel, entry.param.dtype
            if self._compiles and isinstance(noise, Direction):
                self._known[key] = room(noise.kind, *told, self._device)
            else:
                self._known[key] = _eager(noise, *told, META if cuda else CPU)
        return self._known[key]


def _eager(noise, count, dtype, device):
    base = torch.zeros(min(count, LARGEST) if device == CPU else count, dtype=dtype, device=device)
    with Tracker([base, table(_kind(noise), device)]) as tracker:  # the table stays
        shifted(base, 1.0, noise, False)
    return max(0, tracker.peak - base.nbytes)


def _kind(noise: Noise) -> str:
    return noise.kind if isinstance(noise, Direction) else "gaussian"


@cache
def _working():
    """Return the peak of working out random bits, as a multiple of the bits themselves."""
    blocks = 1 << 10
    with Tracker() as tracker:
        words_of_many([1, 2], [blocks // 2] * 2, [(0, 0)] * 2, CPU)
    return tracker.peak / (BLOCK * blocks)
