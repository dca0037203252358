"""AdaFRUGAL."""

from dataclasses import dataclass, replace

from ...core.contracts import Density
from ...parts.gaps.stalling import Stalling
from ...parts.schedules.linear import Linear
from ..routes import Route
from .frugal import Frugal

__all__ = ["AdaFrugal"]


@dataclass(frozen=True)
class AdaFrugal(Frugal):
    """AdaFRUGAL (arXiv 2601.11568): FRUGAL with a density that falls, and windows that grow while the loss stalls.

    The loss is told by optimizer.observe(loss), step(closure) or HybridTrainer, or the first step is refused.

    density: by default from 0.25 to 0.05 in 10,000 steps; give Linear(0.25, 0.05, the run's steps). update_gap: steps
    of the first window. split: columns, rows, randk or block; svd and random as parts, with spread=False. free: the
    rule of the rest, without state. free_lr_scale: 1.0 takes AdamW's rate, as in frugal. threshold: a window's
    mean loss has stalled if it differs from the last one's by less than this share of it.
    """

    density: Density = Linear(0.25, 0.05, 10_000)
    update_gap: int = 100
    longest_gap: int = 1000
    gap_factor: float = 1.5
    threshold: float = 0.005

    def make_routes(self) -> tuple[Route, ...]:
        """Return FRUGAL's routes, with windows that follow the loss wherever something is split."""
        gap = Stalling(self.longest_gap, self.gap_factor, self.threshold)
        return tuple(
            replace(r, use=replace(r.use, gap=gap)) if r.use is not None and r.use.tag == "split" else r
            for r in super().make_routes()
        )
