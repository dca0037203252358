"""The random directions of all parameters of an optimizer."""

from collections.abc import Sequence

import torch

from ...core.contracts import Draw, Noise, State
from ...core.contracts.check import check_part
from ...core.numerics.directions import Direction, prepare
from ...execution.state import allocate
from ...model.placement.homes import device_of
from ..windows.resolved import Resolved
from ..windows.windows import Windows

__all__ = ["Noises"]


class Noises:
    """Directions by parameter, in the step that its group is in; the bases that some are made of stay a window."""

    def __init__(self, windows: Windows):
        self._windows = windows
        self._bases: dict[str, tuple[int, State]] = {}
        self._checked: set[type] = set()  # kinds of directions that fulfil their contract
        self._drawn: dict[str, tuple[int, Draw, dict[int, Noise | None]]] = {}  # by name: step, draw, directions

    def of(self, one: Resolved, index: int) -> Noise | None:
        """Return direction `index` of this step; None where the parameter is left alone."""
        step = one.group["step"]
        if self._drawn.get(one.name, (None,))[0] != step:
            self._drawn[one.name] = step, self._windows.probe_draw(one.group, one.name), {}
        _, draw, drawn = self._drawn[one.name]
        if index not in drawn:
            source, shape = one.job.treatment.source, tuple(one.p.shape)
            noise = source.noise(draw, shape, index, self._basis(source, draw, shape, device_of(one.p)))
            if noise is not None and type(noise) not in self._checked:
                check_part(f"{type(source).__name__}.noise", "noise", noise, Noise)
                self._checked.add(type(noise))
            drawn[index] = noise
        return drawn[index]

    def prepare(self, work: Sequence[Resolved], samples: int) -> None:
        """Work out the random bits of small parameters together; no result depends on it.

        work: the parameters; samples: directions of a step.
        """
        wanted: dict[torch.device, list[tuple[Direction, int]]] = {}
        for one in work:
            for index in range(samples):
                noise = self.of(one, index)
                if noise is not None and (found := noise.drawn(one.p.numel())):
                    wanted.setdefault(device_of(one.p), []).append(found)
        for device, directions in wanted.items():
            prepare(directions, device)

    def terms(self, one: Resolved, slopes: Sequence[float]) -> tuple[tuple[float, Noise], ...]:
        """Return (weight, direction) of everything that a parameter's gradient has of directions.

        slopes: change of the loss along every direction of the step.
        """
        weights = one.job.treatment.source.weights(slopes)
        found = [(weight, self.of(one, i)) for i, weight in enumerate(weights)]
        return tuple([(weight, noise) for weight, noise in found if noise is not None])

    def _basis(self, source, draw, shape, device):
        slots = source.slots(shape)
        if not slots:
            return {}
        if self._bases.get(draw.name, (None, None))[0] != draw.window:
            self._bases.pop(draw.name, None)
            basis = {key: allocate(slot, device) for key, slot in slots.items()}
            source.sample(basis, draw)
            self._bases[draw.name] = draw.window, basis
        return self._bases[draw.name][1]
