"""The configuration files of a model folder, written by transformers."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..core.errors import HybridOptError
from ..model.fsdp.sharded_tensors import class_of

__all__ = ["write_config", "write_generation"]


def write_config(model: Any, folder: Path, dtype: torch.dtype, untied: bool) -> None:
    """Write config.json of a model whose weights are floats; the model's own configuration stays as it is.

    Args:
        model: of transformers.
        folder: to write into.
        dtype: of the weights that are written.
        untied: are embeddings no longer tied?
    """
    config = copy.deepcopy(model.config)
    config.dtype, config.architectures = dtype, [class_of(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if untied:
        config.tie_word_embeddings = False
    _called("config.json", config.save_pretrained, str(folder))


def write_generation(model: Any, folder: Path) -> None:
    """Write generation_config.json of a model that generates; nothing for others."""
    generation = getattr(model, "generation_config", None)
    if generation is not None and model.can_generate():
        # Not its save_pretrained: that refuses settings that others have published, at the end of a training run.
        path = str(folder / "generation_config.json")
        _called("generation_config.json", generation.to_json_file, path, keys_to_pop=["compile_config"])


def _called(what: str, write: Callable[..., object], *args: Any, **options: Any) -> None:
    try:
        write(*args, **options)
    except Exception as error:  # transformers raises many types
        raise HybridOptError(f"{what} cannot be written: {type(error).__name__}: {error!s:.300}") from error
