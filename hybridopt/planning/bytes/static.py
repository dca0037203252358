"""Bytes that do not change within a step, in closed form: weights, quantization constants, state, gradients."""

from dataclasses import dataclass

from torch import nn

from ...policy.plan import LONGEST, Plan
from ..trace.fake_models import tensors_of
from ..trace.tracker import storages

__all__ = ["Static", "Weights", "gradient_bytes", "idle_windows", "static", "weights"]


@dataclass(frozen=True)
class Static:
    """In bytes. weights: parameters, or their codes, and buffers. quantization: scales and tables. state: at most."""

    weights: int
    quantization: int
    state: int
    parameters: int
    trained: int


@dataclass(frozen=True)
class Weights:
    """Bytes of parameters, or their codes, and buffers; of scales and tables."""

    weights: int
    quantization: int


def weights(model: nn.Module) -> Weights:
    """Count a model, on meta or not."""
    parameters = {id(p): p for p in model.parameters()}
    codes = sum(_code_bytes(p) for p in parameters.values())
    buffers = {id(b): b.nbytes for b in model.buffers()}
    everything = {}
    for tensor in tensors_of(model):
        everything |= {s._cdata: s.nbytes() for s in storages(tensor)}
    kept = codes + sum(buffers.values())
    return Weights(kept, sum(everything.values()) - kept)


def static(found: Weights, plan: Plan) -> Static:
    """A model and its plan."""
    trained = [e for e in plan.entries if e.treatment is not None]
    return Static(
        found.weights,
        found.quantization,
        plan.largest(e.param.name for e in trained),
        sum(e.numel for e in plan.entries),
        sum(e.numel for e in trained),
    )


def gradient_bytes(plan: Plan) -> dict[str, int]:
    """Of every parameter that the backward pass gives one, in the parameter's dtype."""
    return {
        e.param.name: e.numel * e.param.dtype.itemsize
        for e in plan.entries
        if e.treatment is not None and e.treatment.source.backward
    }


def idle_windows(plan: Plan) -> set[frozenset[str]]:
    """Parameters that stand still, whose gradients are dropped at once: each set that occurs until all had a turn."""
    blocks = [e for e in plan.entries if e.treatment is not None and e.treatment.split.by_turns]
    blocks = [e for e in blocks if e.treatment.free.idle]
    found, waiting = {frozenset()} if not blocks else set(), {e.param.name for e in blocks}
    for window in range(LONGEST):
        if not waiting:
            break
        found.add(idle := frozenset(e.param.name for e in blocks if plan.job(e, window).idle))
        waiting &= idle
    return found


def _code_bytes(p) -> int:
    return p.codes.nbytes if hasattr(p, "codes") else p.nbytes
