"""A subspace that is looked for less and less often while it stands still."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils.weak import WeakTensorKeyDictionary

from ...core.contracts import Draw, Shape, Slot, State
from ...core.numerics.host import send_
from ._projection import Wrapped

__all__ = ["Lazy"]

MEMORY = 5  # of the last searches
_clocks: Any = WeakTensorKeyDictionary()  # by clock: its version, and what was read of it


@dataclass(frozen=True)
class Lazy(Wrapped):
    """Windows between two searches double while the leading direction moves little (Q-GaLore, Zhang et al. 2024, 3.3).

    The sign of a singular vector means nothing, so cosines count by their size.
    """

    threshold: float
    carries = True

    def slots(self, full: Shape) -> dict[str, Slot]:
        """Declare the basis, the last cosines, and a clock: window of the next search, windows between, searches."""
        own = {"cosine": Slot((MEMORY,), exact=True), "clock": Slot((3,), torch.int64, exact=True)}
        return self.inner.slots(full) | own

    def sample(self, grad: Tensor, basis: State, draw: Draw) -> None:
        """Search for a basis if that is due, and set the time of the next search.

        Args:
            grad: gradient [..., m, n].
            basis: the basis, "cosine" and "clock", written in place.
            draw: the random choices of this parameter in this window.
        """
        due, gap, count = [0, 0, 0] if draw.fresh else _numbers(basis["clock"])
        if draw.window < due:
            return
        gap = gap if count else 1
        old = self.inner.first(grad, basis).clone() if count else None
        self.inner.sample(grad, basis, draw)
        send_(basis["clock"], torch.tensor([draw.window + gap, gap, count + 1], device="cpu"))
        if old is not None:
            new = self.inner.first(grad, basis)
            basis["cosine"][(count - 1) % MEMORY] = cosine_similarity(old, new, -1).abs().mean()
        if count >= MEMORY:  # then the next search may be put off, as only the device knows
            still = basis["cosine"].mean() >= self.threshold
            basis["clock"][:2].add_(still * gap)

    def read_ahead(self, basis: State) -> None:
        """Read when the next search is due; basis: as `sample` has left it."""
        _clocks[basis["clock"]] = basis["clock"]._version, basis["clock"].cpu().tolist()
        super().read_ahead(basis)

    def flaw(self, full: Shape, basis: State, window: int) -> str | None:
        """Return what is wrong with "clock" unless the search lies within the windows gone by; or with the basis.

        Args:
            full: shape of the parameter.
            basis: of the part beneath, "cosine" and "clock".
            window: in which it was made.
        """
        due, gap, count = basis["clock"].tolist()
        last = due - gap  # the window of the last search
        if not (0 <= last <= window and 1 <= gap <= max(1, 2 * last) and 1 <= count <= last + 1):
            return f"clock {[due, gap, count]} is none of window {window}"
        return self.inner.flaw(full, basis, window)

    def down(self, x: Tensor, basis: State) -> Tensor:
        """Return the coordinates of `x`."""
        return self.inner.down(x, basis)

    def rest(self, x: Tensor, basis: State) -> Tensor:
        """Return what the coordinates leave of `x`."""
        return self.inner.rest(x, basis)

    def up_(self, out: Tensor, x: Tensor, basis: State) -> Tensor:
        """Add coordinates, back in the full shape, to `out`.

        Args:
            out: [..., m, n], changed in place.
            x: coordinates.
            basis: as `sample` has left it.
        """
        return self.inner.up_(out, x, basis)

    def factors(self, full: Shape, x: Tensor, basis: State) -> tuple[Tensor, Tensor] | None:
        """Return the factors of the part beneath.

        Args:
            full: shape of the parameter.
            x: coordinates.
            basis: as `sample` has left it.
        """
        return self.inner.factors(full, x, basis)

    def first(self, like: Tensor, basis: State) -> Tensor:
        """Return the leading direction for a gradient of the shape of `like`, [..., side]."""
        return self.inner.first(like, basis)


def _numbers(clock: Tensor) -> list[int]:
    """Return the window of the next search, the windows in between, and the searches so far."""
    version, known = _clocks.get(clock) or (None, None)
    numbers: list[int] = clock.cpu().tolist() if known is None or version != clock._version else known
    return numbers
