"""The random directions of all parameters of an optimizer."""

from collections.abc import Sequence

from torch import Tensor

from ...core.contracts import Noise, State
from ...core.numerics.directions import Direction, prepare
from ...execution.state import allocate
from ..windows import Windows

__all__ = ["Noises", "drawn_from"]


def drawn_from(noise: Noise | None, numel: int) -> tuple[Direction, int] | None:
    """The elementwise direction that noise is made of, and how many of its elements; None where there is none."""
    count = numel if isinstance(noise, Direction) else getattr(noise, "drawn", 0)
    return (getattr(noise, "core", noise), count) if count else None


class Noises:
    """Directions by parameter, in the step that its group is in; the bases that some are made of stay a window."""

    def __init__(self, windows: Windows):
        self._windows = windows
        self._bases: dict[str, tuple[int, State]] = {}

    def of(self, group: dict, name: str, p: Tensor, index: int) -> Noise | None:
        """Direction `index` of this step; None where the parameter is left alone."""
        source, draw = self._windows.treatment(group).source, self._windows.probe_draw(group, name)
        return source.noise(draw, tuple(p.shape), index, self._basis(source, draw, p))

    def prepare(self, work: Sequence[tuple[dict, str, Tensor]], samples: int) -> None:
        """Work out the random bits of small parameters together; no result depends on it. work: (group, name, p)."""
        wanted: dict = {}
        for group, name, p in work:
            for index in range(samples):
                found = drawn_from(self.of(group, name, p, index), p.numel())
                if found:
                    wanted.setdefault(p.device, []).append(found)
        for device, directions in wanted.items():
            prepare(directions, device)

    def terms(self, group: dict, name: str, p: Tensor, slopes: Sequence[float]) -> tuple[tuple[float, Noise], ...]:
        """(weight, direction) of everything that the gradient has of directions."""
        weights = self._windows.treatment(group).source.weights(slopes)
        found = ((weight, self.of(group, name, p, i)) for i, weight in enumerate(weights))
        return tuple((weight, noise) for weight, noise in found if noise is not None)

    def _basis(self, source, draw, p):
        slots = source.slots(tuple(p.shape))
        if not slots:
            return {}
        if self._bases.get(draw.name, (None, None))[0] != draw.window:
            self._bases.pop(draw.name, None)
            basis = {key: allocate(slot, p.device) for key, slot in slots.items()}
            source.sample(basis, draw)
            self._bases[draw.name] = draw.window, basis
        return self._bases[draw.name][1]
