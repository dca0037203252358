"""Bytes of weights, quantization constants, optimizer state and gradients, in closed form."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ...core.contracts import PackedWeight
from ...core.storages import storage_id
from ...model.fsdp.sharded_tensors import local
from ...policy.plan import LONGEST, Entry, Plan
from ..trace.fake_models import tensors_of
from ..trace.tracker import storages

__all__ = ["Static", "Weights", "gradient_bytes", "idle_windows", "moved_bytes", "static"]
__all__ += ["weight_bytes", "weights"]


@dataclass(frozen=True)
class Static:
    """Bytes that stay during a step, and counts.

    Args:
        weights: bytes of parameters, or their codes, and of buffers.
        quantization: bytes of scales and tables.
        state: bytes of optimizer state in its largest window.
        parameters: elements of all parameters.
        trained: elements of those that are trained.
    """

    weights: int
    quantization: int
    state: int
    parameters: int
    trained: int


@dataclass(frozen=True)
class Weights:
    """Bytes of parameters, or their codes, and of buffers (`weights`); of scales and tables (`quantization`)."""

    weights: int
    quantization: int


def weights(model: nn.Module, elsewhere: Iterable[Tensor] = ()) -> Weights:
    """Count the bytes of a model, on meta or not; of what is sharded the rows of this rank.

    Args:
        model: with adapters or without.
        elsewhere: tensors of it that do not count.
    """
    left_out = {id(x) for x in elsewhere}
    parameters = {id(p): local(p) for p in model.parameters() if id(p) not in left_out}
    codes = sum(_code_bytes(p) for p in parameters.values())
    buffers = {id(b): b.nbytes for b in model.buffers() if id(b) not in left_out}
    everything: dict[int, int] = {}
    for tensor in tensors_of(model):
        if id(tensor) not in left_out:
            everything |= {storage_id(s): s.nbytes() for s in storages(local(tensor))}
    kept = codes + sum(buffers.values())
    return Weights(kept, sum(everything.values()) - kept)


def static(found: Weights, plan: Plan) -> Static:
    """Put the bytes of a model and of its plan together."""
    trained = [e for e in plan.entries if e.treatment is not None]
    return Static(
        found.weights,
        found.quantization,
        plan.largest(e.param.name for e in trained),
        sum(e.numel for e in plan.entries),
        sum(e.numel for e in trained),
    )


def gradient_bytes(plan: Plan) -> dict[str, int]:
    """Return the bytes of the gradient, in its parameter's dtype, by every parameter that the backward pass serves."""
    return {
        e.param.name: e.numel * e.param.dtype.itemsize
        for e in plan.entries
        if e.treatment is not None and e.treatment.source.backward
    }


def weight_bytes(entry: Entry) -> int:
    """Return the bytes of a parameter, or of its codes."""
    return entry.numel * (entry.param.codes or entry.param.dtype).itemsize


def moved_bytes(plan: Plan, gradients: Mapping[str, int], idle: frozenset[str]) -> int:
    """Return the bytes that an update reads and writes: weights and state both ways, and gradients once.

    Args:
        plan: of the parameters.
        gradients: bytes by name of those that the backward pass serves.
        idle: names of parameters that are left alone.
    """
    moved = [e for e in plan.entries if e.treatment is not None and e.param.name not in idle]
    state = plan.largest(e.param.name for e in moved)
    return sum(2 * weight_bytes(e) + gradients.get(e.param.name, 0) for e in moved) + 2 * state


def idle_windows(plan: Plan) -> set[frozenset[str]]:
    """Return the sets of parameters that are idle together in some window, until each was active in one.

    The gradients of idle parameters are dropped at once. {frozenset()}: no window leaves any alone.
    """
    trained = ((e, e.treatment) for e in plan.entries if e.treatment is not None)
    blocks = [e for e, treatment in trained if treatment.split.by_turns and treatment.free.idle]
    found: set[frozenset[str]] = set() if blocks else {frozenset()}
    waiting = {e.param.name for e in blocks}
    for window in range(LONGEST):
        if not waiting:
            break
        found.add(idle := frozenset(e.param.name for e in blocks if plan.job(e, window).idle))
        waiting &= idle
    return found


def _code_bytes(p) -> int:
    return p.parts()["codes"].nbytes if isinstance(p, PackedWeight) else p.nbytes
