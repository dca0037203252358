"""Find the moment of a training step with the most bytes: a trace, gradients as they are released, and updates."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .moments import Stage
from .simulate import Trace

__all__ = ["Peak", "Step", "alone_moments", "peak"]


@dataclass(frozen=True)
class Peak:
    """Bytes that are alive at one moment of a step, beside weights and optimizer state.

    Args:
        stage: where in the step the moment lies.
        activations: bytes that the forward pass made.
        temporaries: bytes that were made after it, without gradients.
        gradients: bytes of gradients.
        near: bytes of layers that rest elsewhere and are near.
        collectives: bytes of gathered weights, and of what gradients are added up in, where several GPUs train.
    """

    stage: Stage
    activations: float
    temporaries: float
    gradients: float
    near: int = 0
    collectives: float = 0

    @property
    def total(self) -> float:
        """Return all bytes of the moment."""
        return self.activations + self.temporaries + self.gradients + self.near + self.collectives


@dataclass(frozen=True)
class Step:
    """When a step frees which gradients, and what its updates take.

    Args:
        gradients: bytes of each parameter's gradient, by the parameter's name.
        idle: names of parameters whose gradients are dropped at once.
        frees_gradients: whether each gradient is used and freed within the backward pass.
        passes: micro-batches of a step.
        alone: returns the bytes that the update of one parameter, given by name, takes for a moment.
        together: returns the bytes that the update of all parameters takes for a moment.
        probed: whether there are updates without gradients of the backward pass.
        near: returns the bytes of placed layers that are near in a stage, given the name of the list of layers.
    """

    gradients: Mapping[str, int]
    idle: frozenset[str]
    frees_gradients: bool
    passes: int
    alone: Callable[[str], int]
    together: Callable[[], int]
    probed: bool = False
    near: Callable[[str, Stage], int] = lambda path, stage: 0


def peak(trace: Trace, step: Step, moments: Iterable[Peak] | None = None) -> Peak:
    """Return the moment of the step at which most bytes are alive.

    Args:
        trace: of a pass.
        step: when gradients are freed, and what updates take.
        moments: of the step; None: those of one GPU.
    """
    every = alone_moments(trace, step) if moments is None else moments
    most, near = max(_all(trace, step, every), key=lambda found: found[0].total + found[1])
    return replace(most, near=near)


def _all(trace: Trace, step: Step, every: Iterable[Peak]) -> Iterator[tuple[Peak, int]]:
    """Yield every moment that may be the largest, and the bytes of placed layers that are near in it."""
    near: dict[Stage, int] = {}
    for moment in every:
        if moment.stage not in near:
            near[moment.stage] = step.near(trace.path, moment.stage)
        yield moment, near[moment.stage]


def alone_moments(trace: Trace, step: Step) -> Iterator[Peak]:
    """Yield the moments of a step on one GPU."""
    kept = sum(_kept(step, name) for name in step.gradients) if step.passes > 1 else 0
    last = (0.0, 0.0)
    for m in trace.moments:
        yield Peak(m.stage, m.forward, m.backward - m.gradient, kept + m.gradient)
        last = m.left
        if m.done is None or m.done in step.idle:
            continue
        size = step.gradients[m.done]
        if step.frees_gradients:
            again = step.passes > 1
            made = max(0, m.left[1] - size)
            yield Peak(m.stage, m.left[0], made + step.alone(m.done), kept + size * (not again))
            kept -= size * again
        elif step.passes == 1:
            kept += size
    if step.probed or (kept and not step.frees_gradients):
        yield Peak(("update",), last[0], last[1] + step.together(), kept)


def _kept(step: Step, name: str) -> int:
    return 0 if name in step.idle else step.gradients[name]
