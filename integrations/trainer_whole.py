"""Checkpoints that one process, or each of several replicas, has written, read into a sharded model."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hybridopt.core.errors import HybridOptError
from hybridopt.core.files import tensors
from hybridopt.model.fsdp.sharded_tensors import coded, reshard_, write_
from hybridopt.model.roles import clean

from .peft.rehearsal import state
from .peft.saved import WEIGHTS, folder_of

__all__ = ["read_whole_weights"]


def read_whole_weights(folder: Path, model: Any) -> None:
    """Write the values of a checkpoint to what this rank has of a sharded model; all ranks call this.

    One tensor at a time is read, by each rank.

    Args:
        folder: of the checkpoint, as the Trainer writes it.
        model: sharded, with its adapters if any, and wrapped.

    Raises:
        HybridOptError: before anything is written: a trained parameter is in none of its files, or kept as codes.
    """
    reshard_(model)
    places = list(_adapters(folder, model) if hasattr(model, "peft_config") else _files(folder, model))
    held = {id(live[name]) for file, live in places for name in tensors.names(file, "the checkpoint") if name in live}
    _check(folder, model, held)
    for file, live in places:
        for name, value in tensors.each(file, "the checkpoint"):
            if name in live:
                write_(live[name], value)


def _check(folder: Path, model: Any, held: set[int]) -> None:
    trained = {entry.param.name for entry in model.hybrid.resolved().entries if entry.treatment is not None}
    for name, p in model.named_parameters():
        if clean(name) in trained and coded(p) is not None:
            raise HybridOptError(
                f"the checkpoint {folder} is of a model without shards, and {clean(name)!r} is trained as codes: "
                "go on without them, by parallel: ddp or one process, or start a new run from its weights"
            )
        if clean(name) in trained and id(p) not in held:
            raise HybridOptError(f"the checkpoint {folder} has no values of {clean(name)!r}, which is trained")


def _adapters(folder: Path, model: Any) -> Iterator[tuple[Path, Mapping[str, Tensor]]]:
    """Yield the file of each adapter, and its tensors by their names there."""
    for name in model.peft_config:
        yield folder / folder_of(name) / WEIGHTS, state(model, name)


def _files(folder: Path, model: Any) -> Iterator[tuple[Path, Mapping[str, Tensor]]]:
    live = {clean(name): x for name, x in (*model.named_parameters(), *model.named_buffers())}
    for file in sorted(folder.glob("*.safetensors")):
        yield file, live
