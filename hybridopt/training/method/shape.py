"""What the method of a run is chosen for, and what was chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.budget import Budget
from ..config.run import Run

if TYPE_CHECKING:
    from ...planning import Choice, Estimate

__all__ = ["Chosen", "Shape"]


@dataclass(frozen=True)
class Shape:
    """How large the passes of a run are.

    Args:
        seq_len: tokens of the longest sequence.
        batch: sequences of a forward pass: those of `train.batch` examples.
        micro_batches: passes of a step.
        causal: whether the model continues texts; otherwise it classifies or rates them.
        generates: whether texts are made between the steps, which the plan does not know.
        shards: whether several processes can share the model by its rows.
        steps: of the run; None: not known.
        change: lets a model on meta compute its loss as the trainer does, for a device ("cuda" or "cpu").
    """

    seq_len: int
    batch: int
    micro_batches: int
    causal: bool = True
    generates: bool = False
    shards: bool = True
    steps: int | None = None
    change: Callable[[Any, str], object] = lambda model, device: None


@dataclass(frozen=True)
class Chosen:
    """A run whose method is settled, with what it takes.

    Args:
        run: with no "auto" left in `method` and `train`.
        estimate: of the bytes that a step takes.
        room: memory that it was chosen for.
        told: lines for people.
        others: further ways that fit, where they were asked for.
        title: of the way, where it was chosen; None: it was given.
    """

    run: Run
    estimate: "Estimate"
    room: Budget
    told: list[str]
    others: "tuple[Choice, ...]" = ()
    title: str | None = None

    @property
    def fits(self) -> bool:
        """Return whether it fits beside the margin."""
        return not self.estimate.missing(self.room.usable)
