"""Which tensors of a model cannot be read from the checkpoint that it was loaded from."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...core.errors import HybridOptError
from ...core.files import plain_json
from ...core.files.model_folders import CONFIG
from ..adapters import bare
from ..embeddings import embedding_names, resized, row_count
from ..quantization.owners import owner
from ..roles import base_name, base_names
from .weight_files import stored

__all__ = ["unstored"]

SMALL = 0.01  # share of a model that is saved though the checkpoint may hold it under another name


def unstored(model: nn.Module) -> set[str]:
    """Return the base names of the parameters that a model has not from its checkpoint: resized, or new.

    Only headers of files on this machine are read, no values. Where a model comes from is what transformers notes in
    it; of other models it is only known whether their embeddings were resized.
    """
    tensors, folder = _plain(model), _folder(bare(model))
    if folder is None:
        return embedding_names(model) & tensors.keys() if resized(model) else set()
    try:
        sizes = {name: math.prod(entry.shape) for name, entry in stored(folder).items()}
    except HybridOptError:  # pickled weights, or such as need constants
        return _resized(model, tensors, folder)
    prefix = getattr(bare(model), "base_model_prefix", "")
    found = {name: size for name, ties in tensors.items() if (size := _size(sizes, ties, prefix)) is not None}
    return {n for n, size in found.items() if size != _numel(tensors[n])} | _new(tensors, found, sizes, prefix)


def _folder(model: Any) -> Path | None:
    """Return where a transformers model was loaded from, if that is here: a folder, or one of the hub's cache."""
    config = getattr(model, "config", None)
    name, commit = (getattr(config, each, None) for each in ("_name_or_path", "_commit_hash"))
    if not isinstance(name, str) or not name:
        return None
    if (Path(name) / CONFIG).is_file():
        return Path(name)
    hub = sys.modules.get("huggingface_hub")
    if hub is None or Path(name).is_absolute():
        return None
    try:
        found = hub.try_to_load_from_cache(name, CONFIG, revision=commit)
    except ValueError:  # no name that the hub allows
        return None
    return Path(found).parent if isinstance(found, str) else None


def _plain(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the base parameters that are not quantized: by base name, all names of each, as it may be tied."""
    ties: dict[int, dict[str, Tensor]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if p.is_floating_point() and owner(p) is None:
            ties.setdefault(id(p), {})[base_name(name)] = p
    own = set(base_names(model))
    return {next(iter(names)): names for names in ties.values() if next(iter(names)) in own}


def _numel(ties: Mapping[str, Tensor]) -> int:
    return next(iter(ties.values())).numel()


def _keys(name: str, prefix: str) -> tuple[str, ...]:
    """Return what a tensor may be called in a checkpoint: of the model itself, of its body, or of one around it."""
    return name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"


def _size(sizes: Mapping[str, int], ties: Mapping[str, Tensor], prefix: str) -> int | None:
    """Return how many elements a checkpoint has for a tensor; None where it does not know its name."""
    return next((sizes[key] for name in ties for key in _keys(name, prefix) if key in sizes), None)


def _new(tensors, found: Mapping[str, int], sizes: Mapping[str, int], prefix: str) -> set[str]:
    """Return the tensors that the checkpoint does not know by name.

    Where it has names that the model does not know either, weights may have been renamed or joined as they were read;
    then only a small share of the model counts, such as the output layer of a classifier.
    """
    new = tensors.keys() - found.keys()
    known = {key for ties in tensors.values() for name in ties for key in _keys(name, prefix)}
    count = sum(_numel(tensors[name]) for name in new)
    few = count <= SMALL * sum(map(_numel, tensors.values()))
    return set(new) if few or sizes.keys() <= known else set()


def _resized(model: nn.Module, tensors: Mapping[str, object], folder: Path) -> set[str]:
    """Return the input and output embeddings, if they have other rows than the configuration on disk says."""
    try:
        size = plain_json.read(folder / CONFIG, "the model's configuration").get("vocab_size")
    except HybridOptError:
        return set()
    rows = row_count(model)
    return set() if not isinstance(size, int) or rows in (None, size) else embedding_names(model) & tensors.keys()
