"""A complete Hugging Face model folder of a live model, written one tensor at a time."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.errors import HybridOptError
from ...core.sizes import bytes_of
from ...model.adapters import library_of
from ...model.loading.weight_files import INDEX
from ..folder import previous_names
from ..merging.shards import write_shards
from ..model_config import write_config, write_generation
from ..ranks import Whole
from .outputs import outputs
from .values import Value, values

__all__ = ["WEIGHTS", "check_place", "check_writable", "write_model"]

WEIGHTS = ("model*.safetensors", INDEX, "pytorch_model*.bin", "pytorch_model.bin.index.json")


def check_writable(model: nn.Module, max_shard_size: str | int) -> int:
    """Return the bytes of a file at most; raise HybridOptError for a model that no such folder can be written of."""
    try:
        from transformers import PreTrainedModel
    except ImportError as error:
        raise HybridOptError("full=True writes a Hugging Face model folder, and needs transformers") from error
    library = library_of(model)
    if library is not None and (names := library.names(model)):
        raise HybridOptError(
            f"full=True is for a model without adapters, and {names[:3]} are on it; save without full=True, which "
            "PEFT and vLLM load, and make a whole model of that with `hybridopt merge`"
        )
    if not isinstance(model, PreTrainedModel):
        raise HybridOptError(
            f"full=True writes a Hugging Face model folder, and {type(model).__name__} is no transformers model; save "
            "without full=True"
        )
    return bytes_of(max_shard_size, "max_shard_size")


def check_place(directory: Path) -> None:
    """Raise HybridOptError if weights of others lie in a folder: they would be loaded instead, or be lost."""
    if not directory.is_dir():
        return
    known = previous_names(directory)
    found = {path.name for pattern in WEIGHTS for path in directory.glob(pattern)} - known
    if found:
        raise HybridOptError(
            f"{directory / min(found)} was not saved here, as by another program; remove it or choose another folder"
        )


def write_model(model: Any, folder: Path, largest: int, dtype: torch.dtype, whole: Whole) -> None:
    """Write weights, config.json and generation_config.json of a model without adapters.

    One tensor at a time is copied to the CPU. Codes are written as the floats they stand for.

    Args:
        model: of transformers, as `check_writable` wants it.
        folder: to write into.
        largest: bytes of a file at most; a single tensor may be larger.
        dtype: of the model, and of what is made of codes that do not know their own.
        whole: returns a sharded tensor in one piece.
    """
    found = values(model, dtype, whole)
    write_shards(outputs(model, found), folder, largest)
    write_config(model, folder, dtype, _untied(model, found))
    write_generation(model, folder)


def _untied(model: Any, found: list[Value]) -> bool:
    """Return whether tensors that the configuration ties have come to be several."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    own = {name: value.names for value in found for name in value.names}
    return any(name in own and source in own and own[name] != own[source] for name, source in tied.items())
