"""Tensors written into the shards of a model folder, each made when its turn comes."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import HybridOptError
from ...core.files import tensors
from ...model.loading.weight_files import INDEX
from .outputs import Written

__all__ = ["write_shards"]

PATTERN = "model{suffix}.safetensors"


def write_shards(outputs: Iterable[Written], folder: Path, largest: int) -> int:
    """Write tensors as Hugging Face names shards, with the index where there are several; return how many there are.

    Args:
        outputs: what is written; one at a time is held in memory.
        folder: to write into.
        largest: bytes of a shard at most; a single tensor may be larger.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    named = _by_name(outputs)
    size = lambda each: math.prod(each.shape) * each.dtype.itemsize  # noqa: E731
    split = split_state_dict_into_shards_factory(
        named, get_storage_size=size, filename_pattern=PATTERN, max_shard_size=largest
    )
    for file, names in split.filename_to_tensors.items():
        _write({name: named[name] for name in names}, folder / file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return len(split.filename_to_tensors)


def _by_name(outputs: Iterable[Written]) -> dict[str, Written]:
    named: dict[str, Written] = {}
    for each in outputs:
        if each.name in named:
            raise HybridOptError(f"{each.name!r} would be written twice; the base stores it under two names")
        named[each.name] = each
    return named


def _write(named: dict[str, Written], file: Path) -> None:
    """Write one shard: the header is made of tensors that take no memory, then each is made and written."""
    empty = {name: torch.empty(1, dtype=each.dtype).expand(math.prod(each.shape)) for name, each in named.items()}
    empty = {name: x[:].as_strided(named[name].shape, (0,) * len(named[name].shape)) for name, x in empty.items()}
    makers = {id(x): named[name] for name, x in empty.items()}

    def made(x: Tensor) -> Tensor:
        output = makers[id(x)]
        found = output.make()
        if tuple(found.shape) != output.shape:
            raise HybridOptError(
                f"{output.name!r} has shape {tuple(found.shape)} where {output.shape} is needed; take the base that "
                "was trained"
            )
        return found

    tensors.save(empty, file, {"format": "pt"}, made)
