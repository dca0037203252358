"""Which of a model's changes can be saved as scalars."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from ...model.base_record import Base
from ...model.fsdp.sharded_tensors import local
from ...model.roles import base_name
from ...optimizer.probing.follow import Followed
from ...optimizer.probing.log import Log
from .record import holds, trajectory
from .trajectory import Trajectory

__all__ = ["recorded"]


def recorded(
    optimizers: Iterable, base: Base, changed: Mapping[str, Tensor], whole: Callable[[Tensor], Tensor]
) -> Trajectory | None:
    """Return the run of one of the optimizers from which most of the changed tensors follow; None if none does.

    A run qualifies if its log has every step since `base`, nobody else wrote the weights, and a replay gives the same
    values.

    Args:
        optimizers: all that may have trained the model.
        base: the record of the base model.
        changed: the tensors that differ from it, by name.
        whole: returns a tensor, sharded or not, in one piece.
    """
    runs = (_run(optimizer, base, changed, whole) for optimizer in optimizers)
    return max((run for run in runs if run is not None), key=lambda run: len(run.traces), default=None)


def _run(optimizer, base, changed, whole):
    log = optimizer.log
    if log is None or not len(log):
        return None
    log.check()
    if log.broken or any(group["step"] != len(log) for group in optimizer.param_groups):
        return None
    kept = [f for f in log.followed if f.name in changed and _from(base, log, f) and _is(f.p, changed[f.name])]
    run = trajectory(log, kept, whole) if kept else None
    return run if run is not None and holds(run, log, kept, whole) else None


def _from(base: Base, log: Log, f: Followed) -> bool:
    """Return whether the run began with the weights of the base model."""
    _, dtype, digest = base[base_name(f.name)]
    return (dtype, digest) == (str(f.p.dtype), log.origin[f.name])


def _is(p, live):
    return (local(p).data_ptr(), p.shape, p.dtype) == (local(live).data_ptr(), live.shape, live.dtype)
