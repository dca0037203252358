"""Adapters written into folders, in the files that PEFT itself writes and reads."""

import copy
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from hybridopt.core.files import tensors
from hybridopt.model.embeddings import embedding_names
from hybridopt.model.fsdp.sharded_tensors import is_sharded
from hybridopt.model.fsdp.units import of_own_classes_

from . import plain_names, tree
from .rehearsal import check_distinct, state
from .uncompiled import uncompiled_config

__all__ = ["CONFIG", "WEIGHTS", "folder_of", "has_embeddings", "save", "saved_names", "saved_shapes"]

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


def save(
    model: Any,
    folder: str | Path,
    unstored: Collection[str] = (),
    whole: Callable[[Tensor], Tensor] | None = None,
) -> list[str]:
    """Write every adapter as PEFT does and return the files' names, relative to `folder`.

    Embeddings of the base are written where no base has them, as PEFT writes resized ones; those that an adapter
    targets are no part of it. PEFT's model card is for people to edit, and none is left behind.

    Args:
        model: a PeftModel, or one that adapters were injected into.
        folder: to write into.
        unstored: names of base parameters that no base has.
        whole: returns a sharded tensor in one piece; None: there are none.
    """
    check_distinct(model)
    with_embeddings = has_embeddings(model) and not embedding_names(model).isdisjoint(unstored)
    compiled = dict(model.peft_config)
    try:
        model.peft_config.update({name: uncompiled_config(config) for name, config in compiled.items()})
        if tree.is_injected(model):
            _save_injected(model, Path(folder), with_embeddings, whole)
        else:
            pieces = None if whole is None else _in_one_piece(model, with_embeddings, whole)
            with of_own_classes_(model):  # PEFT writes down the name of the base's class
                model.save_pretrained(str(folder), save_embedding_layers=with_embeddings, state_dict=pieces)
    finally:
        model.peft_config.update(compiled)
    (Path(folder) / CARD).unlink(missing_ok=True)
    for name in model.peft_config:
        plain_names.write(model, name, Path(folder) / folder_of(name) / CONFIG)
    return [str(folder_of(name) / file) for name in model.peft_config for file in (CONFIG, WEIGHTS)]


def saved_names(model: Any, folder: str | Path) -> set[str]:
    """Return the names in `model.state_dict()` of all that the adapter files in `folder` hold.

    Beside adapters these are the copies of `modules_to_save`, base biases with bias="all" or "lora_only", and
    embeddings that no base has.
    """
    held: dict[int, Tensor] = {}
    for adapter in model.peft_config:
        there = saved_shapes(Path(folder) / folder_of(adapter))
        live = state(model, adapter, has_embeddings(model))
        held |= {id(tensor): tensor for key, tensor in live.items() if key in there}
    return {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in held}


def folder_of(adapter: str) -> Path:
    """Return where the files of an adapter lie: those of "default" in the folder itself, others below it."""
    return Path() if adapter == "default" else Path(adapter)


def has_embeddings(model: Any) -> bool:
    """Return whether PEFT can save the embeddings of a model: it asks for both of them."""
    return embedding_names(model) != set() and hasattr(model, "get_output_embeddings")


def saved_shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors of the adapter in a folder, by name."""
    from safetensors import safe_open

    tensors.names(folder / WEIGHTS, "the adapter")  # raises for what is no whole safetensors file
    with safe_open(folder / WEIGHTS, "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}


def _save_injected(model: Any, folder: Path, with_embeddings: bool, whole: Callable[[Tensor], Tensor] | None) -> None:
    """Write what PEFT writes for the adapters of a PeftModel, for those that lie in the base itself."""
    for name, config in model.peft_config.items():
        place = folder / folder_of(name)
        place.mkdir(parents=True, exist_ok=True)
        live = {key: x.detach() for key, x in state(model, name, with_embeddings).items()}
        live = {key: whole(x).cpu() if whole is not None and is_sharded(x) else x for key, x in live.items()}
        tensors.save(live, place / WEIGHTS, {"format": "pt"})
        config = copy.copy(config)
        config.inference_mode = True
        config.save_pretrained(str(place))


def _in_one_piece(model: Any, with_embeddings: bool, whole: Callable[[Tensor], Tensor]) -> dict[str, Tensor] | None:
    """Return the state dict of a model whose adapters are sharded, with all that belongs to them in one piece."""
    states = [state(model, name, with_embeddings) for name in model.peft_config]
    belongs = {id(x) for each in states for x in each.values() if is_sharded(x)}
    if not belongs:
        return None
    live = model.state_dict(keep_vars=True)
    return {name: whole(x.detach()).cpu() if id(x) in belongs else x for name, x in live.items()}
