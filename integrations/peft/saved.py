"""Adapters in folders, in the files that PEFT itself writes and reads."""

import copy
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError
from hybridopt.core.files import plain_json, tensors
from hybridopt.model.containers import plain_name
from hybridopt.model.embeddings import embedding_names
from hybridopt.model.sharding import is_sharded

from . import plain_names, starts
from .dry_run import check_distinct, check_request, preview

__all__ = ["CONFIG", "WEIGHTS", "check_saved", "load", "save", "saved_names", "saved_shapes", "folder_of"]

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
        model: a PeftModel.
        folder: to write into.
        unstored: names of base parameters that no base has.
        whole: returns a sharded tensor in one piece; None: there are none.
    """
    check_distinct(model)
    with_embeddings = _has_embeddings(model) and not embedding_names(model).isdisjoint(unstored)
    state = None if whole is None else _in_one_piece(model, with_embeddings, whole)
    compiled = dict(model.peft_config)
    try:
        model.peft_config.update({name: _uncompiled(config) for name, config in compiled.items()})
        model.save_pretrained(str(folder), save_embedding_layers=with_embeddings, state_dict=state)
    finally:
        model.peft_config.update(compiled)
    (Path(folder) / CARD).unlink(missing_ok=True)
    for name in model.peft_config:
        plain_names.write(model, name, Path(folder) / folder_of(name) / CONFIG)
    return [str(folder_of(name) / file) for name in model.peft_config for file in (CONFIG, WEIGHTS)]


def _uncompiled(config: Any) -> Any:
    """Return a configuration whose names of modules are those of a model on which torch.compile was not called."""
    found = copy.copy(config)
    for key, value in vars(config).items():
        if isinstance(value, str):
            setattr(found, key, plain_name(value))
        elif isinstance(value, list | set | tuple):
            setattr(found, key, type(value)(plain_name(x) if isinstance(x, str) else x for x in value))
        elif isinstance(value, dict):
            setattr(found, key, {plain_name(k) if isinstance(k, str) else k: v for k, v in value.items()})
    return found


def saved_names(model: Any, folder: str | Path) -> set[str]:
    """Return the names in `model.state_dict()` of all that the adapter files in `folder` hold.

    Beside adapters these are the copies of `modules_to_save`, base biases with bias="all" or "lora_only", and
    embeddings that no base has.
    """
    held: dict[int, Tensor] = {}
    for adapter in model.peft_config:
        there = saved_shapes(Path(folder) / folder_of(adapter))
        state = _adapter_state(model, adapter, _has_embeddings(model))
        held |= {id(tensor): tensor for key, tensor in state.items() if key in there}
    return {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in held}


def check_saved(base: nn.Module, folder: str | Path, adapters: Sequence[str], active: Sequence[str] = ()) -> None:
    """Raise HybridOptError for whatever `load` could not load; change nothing.

    Args:
        base: the model that the adapters are for.
        folder: what `save` has written.
        adapters: names of all adapters in it.
        active: those of them to be switched on.
    """
    if not adapters or len(set(adapters)) < len(adapters) or not set(active) <= set(adapters):
        raise HybridOptError(f"active={list(active)} must be among the adapters named, {list(adapters)}")
    for name in adapters:
        _check_fits(base, name, Path(folder) / folder_of(name))


def load(
    base: nn.Module,
    folder: str | Path,
    adapters: Sequence[str],
    is_trainable: bool = True,
    active: Sequence[str] = (),
) -> nn.Module:
    """Return the PeftModel of `base` with the adapters that `save` has written, switched to `active`.

    Only safetensors files are read.

    Args:
        base: the model that the adapters are for, changed in place.
        folder: what `save` has written.
        adapters: names of all adapters in it.
        is_trainable: whether the active ones require gradients; the others never do.
        active: the first of `adapters` if empty.

    Raises:
        HybridOptError: before `base` is changed, if a file is missing or does not fit the model.
    """
    from peft import PeftModel

    check_saved(base, folder, adapters, active)
    options: dict[str, Any] = {"is_trainable": is_trainable, "torch_device": "cpu"}
    model: Any = None
    for name in adapters:
        place = Path(folder) / folder_of(name)
        config = _saved_config(place / CONFIG)
        config.inference_mode = not is_trainable
        with starts.repeatable(config):
            if model is None:
                model = PeftModel.from_pretrained(base, str(place), name, config=config, **options)
            else:
                model.add_adapter(name, config)
                model.load_adapter(str(place), name, **options)
    active = list(active or adapters[:1])
    model.set_requires_grad(list(adapters), False)  # set_adapter forgets the modules_to_save of adapters loaded before
    model.set_adapter(active[0], inference_mode=not is_trainable)
    if len(active) > 1:
        model.base_model.set_adapter(active, inference_mode=not is_trainable)
    return model


def folder_of(adapter: str) -> Path:
    """Return where the files of an adapter lie: those of "default" in the folder itself, others below it."""
    return Path() if adapter == "default" else Path(adapter)


def _saved_config(path: Path) -> Any:
    from peft import PeftConfig

    plain_json.read(path, "adapter configuration")
    try:
        return PeftConfig.from_pretrained(str(path.parent))
    except Exception as error:  # PEFT raises many types
        raise HybridOptError(f"{path} is no adapter configuration that PEFT reads: {error!r}") from error


def _check_fits(base: nn.Module, name: str, folder: Path) -> None:
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise HybridOptError(f"adapter {name!r}: {folder} has no {' and no '.join(missing)}")
    config = _saved_config(folder / CONFIG)
    check_request(base, config, name)
    there = saved_shapes(folder)
    trial = preview(base, config, name)
    expected = {k: list(v.shape) for k, v in _adapter_state(trial, name).items()}
    allowed = {k: list(v.shape) for k, v in _adapter_state(trial, name, _has_embeddings(trial)).items()}
    expected |= {key: allowed[key] for key in there.keys() & allowed.keys()}
    for key in sorted(there.keys() | expected.keys()):
        if there.get(key) != expected.get(key):
            raise HybridOptError(
                f"adapter {name!r}: {key} has shape {there.get(key)} in {folder / WEIGHTS} and {expected.get(key)} in "
                "this model (None: absent); load it onto the base that it was trained on"
            )


def _has_embeddings(model: Any) -> bool:
    """Return whether PEFT can save the embeddings of a model: it asks for both of them."""
    return embedding_names(model) != set() and hasattr(model, "get_output_embeddings")


def _in_one_piece(model: Any, with_embeddings: bool, whole: Callable[[Tensor], Tensor]) -> dict[str, Tensor] | None:
    """Return the state dict of a model whose adapters are sharded, with all that belongs to them in one piece."""
    states = [_adapter_state(model, name, with_embeddings) for name in model.peft_config]
    belongs = {id(x) for state in states for x in state.values() if is_sharded(x)}
    if not belongs:
        return None
    state = model.state_dict(keep_vars=True)
    return {name: whole(x.detach()).cpu() if id(x) in belongs else x for name, x in state.items()}


def _adapter_state(model: Any, name: str, with_embeddings: bool = False) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    options = {"state_dict": model.state_dict(keep_vars=True), "save_embedding_layers": with_embeddings}
    return get_peft_model_state_dict(model, adapter_name=name, **options)


def saved_shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors of the adapter in a folder, by name."""
    from safetensors import safe_open

    tensors.names(folder / WEIGHTS, "the adapter")  # raises for what is no whole safetensors file
    with safe_open(folder / WEIGHTS, "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}
