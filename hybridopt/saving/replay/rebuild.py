"""Weights of a saved run, rebuilt on base tensors in memory."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ...core.errors import HybridOptError
from ...model.checksums import checksum
from ...model.fsdp.sharded_tensors import whole, write_
from ...model.quantization.layers import is_named
from ...model.roles import base_name
from ..names import CONFIG, DELTA, REPLAY
from .steps import Progress, replay_
from .trajectory import Endpoints, Trajectory

__all__ = ["check_start", "check_names", "check_end", "rebuild_shards_", "rebuilt"]


def check_names(run: Trajectory | None, config: dict, delta: Collection[str]) -> None:
    """Raise HybridOptError unless the files of a folder name the same replayed tensors, each in one place.

    Args:
        run: of the replay file; None: there is none.
        config: of the saved folder.
        delta: names of the changed tensors of the saved folder.
    """
    names = set() if run is None else set(run.traces)
    if odd := sorted(names ^ set(config["replayed"])):
        raise HybridOptError(
            f"{REPLAY} and {CONFIG} do not agree about {odd[0]!r}; copy or save the whole folder again"
        )
    twice = {base_name(n) for n in names} & {base_name(n) for n in delta}
    quantized = {n for n in names if is_named(base_name(n), config["quantized"])}
    for name in sorted(twice | quantized):
        raise HybridOptError(f"{REPLAY} rebuilds {name!r}, which is {'in ' + DELTA if name in twice else 'quantized'}")


def rebuilt(run: Trajectory, base: Mapping[str, Tensor], progress: Progress = lambda done: None) -> dict[str, Tensor]:
    """Return the trained tensors by name, in memory of their own, on the devices of the base tensors.

    Args:
        run: the saved run.
        base: the tensors of the base model by base name.
        progress: is told how many elements times steps have been done.

    Raises:
        HybridOptError: for a base that it was not trained on, and if the run does not lead to where it ended.
    """
    for name, trace in run.traces.items():
        check_start(name, trace, base.get(base_name(name)))
    return {name: _rebuilt(name, run, base[base_name(name)], progress) for name in run.traces}


def rebuild_shards_(run: Trajectory, base: Mapping[str, Tensor], progress: Progress = lambda done: None) -> None:
    """Rebuild the trained tensors of a sharded model, one at a time, whole on every rank, and write each rank's rows.

    All ranks have to call this. Every tensor is rebuilt twice: once to see that all of them come out right, before any
    is written.

    Args:
        run: the saved run.
        base: the tensors of the base model by base name, sharded or not.
        progress: is told how many elements times steps have been done.

    Raises:
        HybridOptError: as `rebuilt` does; nothing is changed then.
    """
    for name, trace in run.traces.items():
        x = base.get(base_name(name))
        check_start(name, trace, None if x is None else whole(x))
    for writes in (False, True):
        for name in run.traces:
            target = base[base_name(name)]
            x = _rebuilt(name, run, whole(target), progress)
            if writes:
                write_(target, x)


def _rebuilt(name: str, run: Trajectory, base: Tensor, progress: Progress) -> Tensor:
    x = base.detach().clone(memory_format=torch.contiguous_format)
    replay_(x, name, run.group(name), run.moves(name), progress)
    check_end(name, run.traces[name], x)
    return x


def check_start(name: str, trace: Endpoints, base: Tensor | None) -> None:
    """Raise HybridOptError unless `base` is the tensor that the run began with.

    Args:
        name: of the parameter in training.
        trace: what is known of it before and after.
        base: the tensor of the base model; None if it has none.
    """
    if base is None:
        raise HybridOptError(f"{REPLAY} is of {name!r}, which the base model has not; take the base it was trained on")
    if base.dtype != trace.dtype:
        raise HybridOptError(
            f"{name!r} was trained in {trace.dtype}, the base model has it in {base.dtype}, where steps would be "
            f"rounded otherwise; load the base with dtype={trace.dtype}"
        )
    if tuple(base.shape) != trace.shape or checksum(base) != trace.base:
        what = "other values" if tuple(base.shape) == trace.shape else f"shape {tuple(base.shape)}, not {trace.shape}"
        raise HybridOptError(f"{name!r} has {what} in this base model; take the base that the run began with")


def check_end(name: str, trace: Endpoints, x: Tensor) -> None:
    """Raise HybridOptError unless `x` is the tensor that the run ended with.

    Args:
        name: of the parameter in training.
        trace: what is known of it before and after.
        x: the rebuilt tensor.
    """
    if checksum(x) != trace.result:
        raise HybridOptError(
            f"{name!r} was rebuilt, and is not what training had made of it: {REPLAY} was edited or damaged, or this "
            "hybridopt steps otherwise than the one it was trained with; nothing was changed. Restore the file from a "
            "copy, or take the version of hybridopt that saved it"
        )
