"""What a training step computes and moves, as far as it is known without running it: never in seconds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..core.contracts import ProbeScheme
from ..policy.plan import Plan
from .bytes.static import gradient_bytes, idle_windows, moved_bytes
from .request import Request

__all__ = ["Work", "losses_of", "probes_of", "schemes_of", "work_of"]

Moves = Callable[[dict[str, int], frozenset[str]], int]
TRIED = 3  # losses more of a conservative step: the step, its opposite, and none


@dataclass(frozen=True)
class Work:
    """Passes of a step through the model, and the bytes that its update reads and writes.

    Args:
        forward: forward passes, those that checkpointing repeats among them.
        backward: backward passes.
        update: bytes that the update reads and writes: weights and state both ways, and gradients once; of several
            GPUs on the one with most.
        relative: multiplications against AdamW on all weights without checkpointing, with as many micro-batches. A
            forward pass is one unit, and so are, of a backward pass, the gradients of activations, and those of all
            weights; where a part of the weights has gradients, that part counts.
    """

    forward: int
    backward: int
    update: int
    relative: float

    def __str__(self) -> str:
        back = f"+{self.backward}B" if self.backward else ""
        return f"{self.forward}F{back}"

    def as_dict(self) -> dict[str, Any]:
        """Return the work as plain data."""
        passes = {"forward_passes": self.forward, "backward_passes": self.backward}
        return passes | {"update_bytes_moved": self.update, "relative_work": round(self.relative, 4)}


def work_of(plan: Plan, request: Request, moves: Moves | None = None) -> Work:
    """Return what a step computes and moves.

    Args:
        plan: the policy, resolved on the model's parameters.
        request: says how often, and with which checkpointing.
        moves: returns the bytes that an update reads and writes, from those of gradients by name, and the names of
            what stands still; None: of all parameters in one piece.
    """
    moves = partial(moved_bytes, plan) if moves is None else moves
    many, gradients = request.micro_batches, gradient_bytes(plan)
    backward = many * bool(gradients)
    forward = many * sum(map(losses_of, schemes_of(plan))) + backward * (1 + request.checkpointing)
    elements = sum(e.numel for e in plan.entries)
    share = sum(e.numel for e in plan.entries if e.param.name in gradients) / elements
    update = max(moves(gradients, still) for still in idle_windows(plan))
    return Work(forward, backward, update, (forward + backward * (1 + share)) / (3 * many))


def schemes_of(plan: Plan) -> set[ProbeScheme]:
    """Return how losses are probed; all parameters share one way."""
    sources = [e.treatment.source for e in plan.entries if e.treatment is not None]
    return {source.scheme for source in sources if source.scheme is not None}


def losses_of(scheme: ProbeScheme) -> int:
    """Return the losses that are computed for one step."""
    return probes_of(scheme) + TRIED * scheme.conservative


def probes_of(scheme: ProbeScheme) -> int:
    """Return the losses of one step that are probes, and can be worked out side by side."""
    return scheme.samples * (1 + scheme.two_sided) + (not scheme.two_sided)
