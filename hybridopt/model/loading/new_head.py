"""Load a model with another output layer than the folder holds, which begins with random values."""

import copy
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .building import build, check_folder, read_model_config
from .matching import match
from .materializing import DONE
from .streaming import How, filled
from .weight_files import Stored, stored

__all__ = ["check_with_head", "load_with_head"]

POOLER = "pooler"  # of encoders: between the model and its output layer, and often not stored


def load_with_head(path: str | PathLike, config: Any, how: How, seed: int = 0) -> nn.Module:
    """Return the model in a local folder with the output layer that a configuration names.

    An output layer of the same class and for the same labels is taken from the folder.

    Args:
        path: the folder.
        config: of transformers, with `architectures` and labels of the wanted output layer.
        how: the arguments of `load`.
        seed: of the values of a new output layer.

    Raises:
        HybridOptError: as `load`.
    """
    folder = check_folder(path)
    model = build(config, folder, how.dtype, torch.float32)
    entries = _entries(model, folder, config)
    new = _new(model, entries)
    loaded = filled(folder, config, entries, how, new)
    _initialize_(loaded, new, seed)
    return loaded


def check_with_head(path: str | PathLike, config: Any) -> None:
    """Raise HybridOptError where `load_with_head` would, as the weights are not those of the model beneath the head.

    Args:
        path: the folder.
        config: of transformers, as in `load_with_head`.
    """
    folder = check_folder(path)
    model = build(copy.deepcopy(config), folder, None, torch.float32)
    entries = _entries(model, folder, config)
    new = _new(model, entries)
    match(model, entries, new, other_head=bool(new))


def _entries(model: Any, folder: Path, config: Any) -> dict[str, Stored]:
    """Return what is stored in a folder, without an output layer that is another than the model's."""
    entries = stored(folder)
    if _same_head(read_model_config(folder), config):
        return entries
    head = set(model.state_dict()) - _body(model)
    return {name: entry for name, entry in entries.items() if name not in head}


def _same_head(there: Any, wanted: Any) -> bool:
    same = (there.architectures, there.id2label) == (wanted.architectures, wanted.id2label)
    return same and there.num_labels == wanted.num_labels


def _body(model: Any) -> set[str]:
    """Return the names of the tensors beneath the output layer."""
    prefix = f"{model.base_model_prefix}."
    return {name for name in model.state_dict() if name.startswith(prefix)}


def _new(model: Any, entries: dict[str, Stored]) -> set[str]:
    """Return the names of the output layer's tensors that no entry makes."""
    names = set(model.state_dict())
    found = match(model, entries, names, other_head=True)
    made = {name for each in found.made.values() for name in each}
    body = _body(model)
    return {name for name in names - made if name not in body or POOLER in name}


def _initialize_(model: Any, new: set[str], seed: int) -> None:
    """Give new tensors the values that transformers' models of this kind begin with."""
    owners = sorted({name.rpartition(".")[0] for name in new})
    with torch.random.fork_rng(devices=[p.device for p in model.parameters() if p.is_cuda][:1]):
        torch.manual_seed(seed)
        for owner in owners:
            module = model.get_submodule(owner)
            for tensor in module.parameters(recurse=False):
                setattr(tensor, DONE, False)
            model._init_weights(module)
