"""Adapters read from folders, as they were saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError
from hybridopt.core.files import plain_json, tensors
from hybridopt.model.fsdp.sharded_tensors import sharded_tensors
from hybridopt.model.roles import clean, of_base

from . import onto_shards, starts
from .dry_run import check_request
from .rehearsal import PREFIX, rehearsed, state
from .saved import CONFIG, WEIGHTS, folder_of, has_embeddings, saved_shapes
from .switched import switch

__all__ = ["check_saved", "load", "saved_config"]


def check_saved(
    base: nn.Module,
    folder: str | Path,
    adapters: Sequence[str],
    active: Sequence[str] = (),
    injected: bool = False,
) -> set[str]:
    """Return the names of the parameters that `load` would add; raise HybridOptError for what it could not load.

    Args:
        base: the model that the adapters are for, which stays as it is.
        folder: what `save` has written.
        adapters: names of all adapters in it.
        active: those of them to be switched on.
        injected: were the adapters put into the model itself?
    """
    if not adapters or len(set(adapters)) < len(adapters) or not set(active) <= set(adapters):
        raise HybridOptError(f"active={list(active)} must be among the adapters named, {list(adapters)}")
    names = {n for name in adapters for n in _added(base, name, Path(folder) / folder_of(name))}
    return {n.removeprefix(PREFIX) for n in names} if injected else names


def load(
    base: nn.Module,
    folder: str | Path,
    adapters: Sequence[str],
    is_trainable: bool = True,
    active: Sequence[str] = (),
    injected: bool = False,
) -> nn.Module:
    """Return the PeftModel of `base` with the adapters that `save` has written, switched to `active`.

    Only safetensors files are read. Every tensor has the dtype that it has in its file.

    Args:
        base: the model that the adapters are for, changed in place.
        folder: what `save` has written.
        adapters: names of all adapters in it.
        is_trainable: whether the active ones require gradients; the others never do.
        active: the first of `adapters` if empty.
        injected: put the adapters into the model itself, and return that.

    Raises:
        HybridOptError: before `base` is changed, if a file is missing or does not fit the model.
    """
    check_saved(base, folder, adapters, active, injected)
    places = {name: Path(folder) / folder_of(name) for name in adapters}
    active = list(active or adapters[:1])
    if sharded_tensors(base):
        saved = {name: (place, saved_config(place)) for name, place in places.items()}
        return onto_shards.load(base, saved, is_trainable, active, injected)
    model = (_injected if injected else _peft_model)(base, places, is_trainable)
    switch(model, adapters, active, is_trainable)
    for name, place in places.items():
        _restore(state(model, name, has_embeddings(model)), tensors.load(place / WEIGHTS, "the adapter"))
    return model


def _peft_model(base: nn.Module, places: dict[str, Path], is_trainable: bool) -> Any:
    from peft import PeftModel

    options: dict[str, Any] = {"is_trainable": is_trainable, "torch_device": "cpu"}
    model: Any = None
    for name, place in places.items():
        config = saved_config(place)
        config.inference_mode = not is_trainable
        with starts.plainly(config):
            if model is None:
                model = PeftModel.from_pretrained(base, str(place), name, config=config, **options)
            else:
                model.add_adapter(name, config)
                model.load_adapter(str(place), name, **options)
    return model


def _injected(base: Any, places: dict[str, Path], is_trainable: bool) -> Any:
    from peft import inject_adapter_in_model, set_peft_model_state_dict

    for name, place in places.items():
        config = saved_config(place)
        config.inference_mode = not is_trainable
        with starts.plainly(config):
            if hasattr(base, "_hf_peft_config_loaded"):  # transformers and diffusers note what they add themselves
                base.add_adapter(config, name)
            else:
                inject_adapter_in_model(config, base, name)
        set_peft_model_state_dict(base, tensors.load(place / WEIGHTS, "the adapter"), name)
    return base


@torch.no_grad()
def _restore(live: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    """Give live tensors the values and dtypes of the saved ones."""
    for name, value in saved.items():
        x = live[name]
        if x.dtype != value.dtype and x.is_floating_point():
            x.data = x.data.to(value.dtype)
            x.copy_(value)


def saved_config(folder: Path) -> Any:
    """Return the configuration in a folder; raise HybridOptError for one that PEFT does not read."""
    from peft import PeftConfig

    path = folder / CONFIG
    plain_json.read(path, "adapter configuration")
    try:
        return PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # PEFT raises many types
        raise HybridOptError(f"{path} is no adapter configuration that PEFT reads: {error!r}") from error


def _added(base: nn.Module, name: str, folder: Path) -> list[str]:
    """Return the names of the parameters that an adapter adds, having made sure that its file fits."""
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise HybridOptError(f"adapter {name!r}: {folder} has no {' and no '.join(missing)}")
    config = saved_config(folder)
    check_request(base, config, name)
    adapted, there = rehearsed(base, config, name), saved_shapes(folder)
    expected = {key: list(x.shape) for key, x in state(adapted, name).items()}
    allowed = {key: list(x.shape) for key, x in state(adapted, name, has_embeddings(adapted)).items()}
    expected |= {key: allowed[key] for key in there.keys() & allowed.keys()}
    for key in sorted(there.keys() | expected.keys()):
        if there.get(key) != expected.get(key):
            raise HybridOptError(
                f"adapter {name!r}: {key} has shape {there.get(key)} in {folder / WEIGHTS} and {expected.get(key)} in "
                "this model (None: absent); load it onto the base that it was trained on"
            )
    if sharded_tensors(base):
        onto_shards.check(base, adapted, name)
    own = of_base(adapted)
    return [clean(n) for n, _ in adapted.named_parameters() if not own(n)]
