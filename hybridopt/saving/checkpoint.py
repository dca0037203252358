"""Checkpoints of sharded runs: every rank writes and reads its rows, by `torch.distributed.checkpoint`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import HybridOptError
from ..model.base_record import persistent_buffers
from ..model.fsdp.sharded_tensors import is_sharded, reshard_, sharded_tensors
from ..model.quantization.scales import scales
from ..model.roles import clean

__all__ = ["SHARDS", "read_optimizer", "read_weights", "write_weights_and_optimizer"]

SHARDS = "shards"  # folder of a checkpoint, as torch.distributed.checkpoint writes it
MARK = "hybridopt_shard"  # key of what stands in a state dict for a tensor that lies in SHARDS


def write_weights_and_optimizer(folder: Path, model: nn.Module, optimizer: Any, file: Path | None) -> None:
    """Write what training has changed; all ranks call this, and each writes its rows.

    Any number of ranks can read it. State of which all ranks have the same, and numbers, go into a file of one rank.

    Args:
        folder: of the checkpoint, which all ranks see.
        model: sharded, and wrapped.
        optimizer: the HybridOptimizer of the model.
        file: for the optimizer's state dict without its shards; None on all ranks but the one that writes it.
    """
    from torch.distributed import checkpoint

    reshard_(model)
    shards: dict[str, Tensor] = {}
    state = _swapped(optimizer.state_dict(), lambda key, x: _marked(shards, key, x))
    with _in_words(folder, "written"):
        checkpoint.save(_weights(model) | shards, checkpoint_id=str(folder / SHARDS))
    if file is not None:
        torch.save(state, file)


def read_weights(folder: Path, model: nn.Module) -> None:
    """Read the weights of a checkpoint into a sharded model; all ranks call this, as many as there are now."""
    from torch.distributed import checkpoint

    reshard_(model)
    with _in_words(folder, "read"):
        checkpoint.load(_weights(model), checkpoint_id=str(folder / SHARDS))


def read_optimizer(folder: Path, model: nn.Module, optimizer: Any, file: Path) -> None:
    """Read the optimizer's state of a checkpoint; all ranks call this, as many as there are now.

    Args:
        folder: of the checkpoint.
        model: sharded.
        optimizer: the HybridOptimizer of the model.
        file: that one rank wrote beside the shards.
    """
    from torch.distributed import checkpoint

    state = torch.load(file, weights_only=True, map_location="cpu")
    like: Any = next(iter(sharded_tensors(model)), None)
    rooms: dict[str, Tensor] = {}
    state = _swapped(state, lambda key, x: _room(rooms, x, like))
    with _in_words(folder, "read"):
        checkpoint.load(rooms, checkpoint_id=str(folder / SHARDS))
    optimizer.load_state_dict(state)


@contextmanager
def _in_words(folder: Path, what: str) -> Iterator[None]:
    """Raise HybridOptError, on all ranks, for what has gone wrong on any of them.

    Args:
        folder: of the checkpoint.
        what: is done with it.
    """
    from torch.distributed.checkpoint import CheckpointException

    try:
        yield
    except CheckpointException as error:
        told = "; ".join(f"rank {rank}: {found[0]!r:.200}" for rank, found in error.failures.items())
        raise HybridOptError(f"the checkpoint {folder} could not be {what}: {told}") from error


def _weights(model: Any) -> dict[str, Tensor]:
    """Return what training can have changed, by name: trained parameters, and buffers that are saved."""
    entries = model.hybrid.resolved().entries
    trained = {entry.param.name for entry in entries if entry.treatment is not None}
    found = {clean(name): p.detach() for name, p in model.named_parameters() if clean(name) in trained}
    found |= {clean(name): x for name, _, x in scales(model) if clean(name) in trained}
    found |= {clean(name): x for name, x in persistent_buffers(model) if x.is_floating_point()}
    return {f"model.{name}": x for name, x in found.items()}


def _swapped(value: Any, swap: Callable[[str, Any], Any], key: str = "optimizer") -> Any:
    """Return nested dicts and lists in which `swap` was asked, with the name of their place, for all that is in them.

    Args:
        value: the outermost.
        swap: returns what takes the place of a tensor, or of a dict.
        key: of `value`.
    """
    swapped = swap(key, value)
    if swapped is not value:
        return swapped
    if isinstance(value, Mapping):
        return {name: _swapped(each, swap, f"{key}.{name}") for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_swapped(each, swap, f"{key}.{i}") for i, each in enumerate(value))
    return value


def _marked(shards: dict[str, Tensor], key: str, value: Any) -> Any:
    if not (isinstance(value, Tensor) and is_sharded(value)):
        return value
    shards[key] = value
    return {MARK: key, "shape": list(value.shape), "dtype": value.dtype}


def _room(rooms: dict[str, Tensor], value: Any, like: Any) -> Any:
    """Return where the shard is read to that a mark stands for."""
    if not (isinstance(value, Mapping) and MARK in value):
        return value
    shape, dtype = value["shape"], value["dtype"]
    if like is None:
        rooms[value[MARK]] = torch.empty(shape, dtype=dtype)
    else:
        from torch.distributed import tensor

        cut = {"device_mesh": like.device_mesh, "placements": like.placements}
        rooms[value[MARK]] = tensor.empty(*shape, dtype=dtype, **cut)
    return rooms[value[MARK]]
