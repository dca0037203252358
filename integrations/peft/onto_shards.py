"""Adapters onto a model that is sharded, new ones or from folders: each rank keeps its rows of each tensor."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError
from hybridopt.core.files import tensors
from hybridopt.model.fsdp.sharded_tensors import as_first, sharded_tensors
from hybridopt.model.fsdp.units import check_not_run, empty_, fill_, shard_added_
from hybridopt.model.placement.homes import assign
from hybridopt.model.roles import of_base

from . import starts, tree
from .rehearsal import cast_, rehearsed, state
from .saved import WEIGHTS, has_embeddings
from .skeleton import filled_, without_memory
from .switched import switch

__all__ = ["attach", "check", "load"]


def check(base: nn.Module, adapted: Any, adapter: str) -> None:
    """Raise HybridOptError for an adapter that cannot be put on a sharded model.

    Args:
        base: the sharded model, which stays as it is.
        adapted: what PEFT makes of a copy without memory.
        adapter: its name.
    """
    what = f"adapter {adapter!r} ({type(adapted.peft_config[adapter]).__name__})"
    check_not_run(base, what)
    held = {id(x) for x in state(adapted, adapter, has_embeddings(adapted)).values()}
    new = [x for _, x in _new(adapted)]
    layers = {id(x) for layer in _layers(tree.base_of(adapted)).values() for x in layer.parameters()}
    kept = {id(x) for x in new if x.is_meta} & held & layers
    if len(set(map(id, new))) < len(new) or any(id(x) not in kept for x in (*new, *tree.tensors(adapted))):
        raise HybridOptError(
            f"{what} cannot be put on a sharded model: its layers share tensors, or PEFT computes some that no file "
            "keeps; load the folder onto the plain model, and shard it afterwards"
        )


def attach(base: nn.Module, config: Any, adapter: str, dtype: torch.dtype | None) -> Any:
    """Return a sharded model with a new adapter, which is sharded as the layers that it is on.

    Every rank lets PEFT make the adapter on a copy without memory, and all take what the first has drawn.

    Args:
        base: the sharded model, not called yet, changed in place.
        config: which stays as it is.
        adapter: its name.
        dtype: of the adapter; None: what PEFT makes.

    Raises:
        HybridOptError: before the model is changed, for adapters that begin with values of its weights.
    """
    made = _drawn(base, copy.deepcopy(config), adapter)
    if dtype is not None:
        cast_(made, dtype)
    check(base, rehearsed(base, config, adapter), adapter)
    values = state(made, adapter)
    _check_free(values, adapter, type(config).__name__)
    home = sharded_tensors(base)[0].device
    with empty_(base):
        model = _attached(base, {adapter: copy.deepcopy(made.peft_config[adapter])}, True, False)
        switch(model, [adapter], [adapter], True)
        for name, x in state(model, adapter).items():
            x.data = x.data.to(values[name].dtype)
    shard_added_(base, _layers(base))
    owners, live = _owners(model), state(model, adapter)
    for name, x in values.items():
        fill_(*owners[id(live[name])], as_first(x.detach(), sharded_tensors(base)[0]), home)
    return model


def _drawn(base: nn.Module, config: Any, adapter: str) -> Any:
    """Return what PEFT makes of a model whose weights are all unknown (NaN)."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return get_peft_model(filled_(without_memory(base), float("nan")), config, adapter)
        except Exception as error:  # PEFT raises many types
            raise _reads_weights(adapter, type(config).__name__) from error


def _check_free(values: Mapping[str, Tensor], adapter: str, kind: str) -> None:
    if not all(x.isfinite().all() for x in values.values()):
        raise _reads_weights(adapter, kind)


def _reads_weights(adapter: str, kind: str) -> HybridOptError:
    return HybridOptError(
        f"adapter {adapter!r} ({kind}) cannot be put on a sharded model: it begins with values of weights (use_dora, "
        "modules_to_save, pissa), of which no rank has all; wrap first, then fully_shard"
    )


def load(
    base: nn.Module, saved: Mapping[str, tuple[Path, Any]], is_trainable: bool, active: list[str], injected: bool
) -> Any:
    """Return a sharded model with adapters, which are sharded as the layers that they are on.

    PEFT makes them without memory; no rank has more than one whole tensor of theirs.

    Args:
        base: the sharded model, not called yet, changed in place.
        saved: for every adapter, by name, its folder and configuration.
        is_trainable: whether the active ones require gradients.
        active: those to be switched on.
        injected: put the adapters into the model itself?
    """
    home = sharded_tensors(base)[0].device
    with empty_(base):
        model = _attached(base, {name: config for name, (_, config) in saved.items()}, is_trainable, injected)
        switch(model, list(saved), active, is_trainable)
        for name, (place, _) in saved.items():
            _cast(state(model, name), place)
    shard_added_(base, _layers(base))
    for name, (place, _) in saved.items():
        _fill(model, state(model, name, has_embeddings(model)), place, home)
    return model if is_trainable else model.eval()


def _attached(base: Any, configs: dict[str, Any], is_trainable: bool, injected: bool) -> Any:
    from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftModel, inject_adapter_in_model

    model: Any = base if injected else None
    for name, config in configs.items():
        config.inference_mode = not is_trainable
        with starts.plainly(config):
            if injected and hasattr(base, "_hf_peft_config_loaded"):  # transformers notes what it adds itself
                base.add_adapter(config, name)
            elif injected:
                inject_adapter_in_model(config, base, name, low_cpu_mem_usage=True)
            elif model is None:
                kind = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)
                model = kind(base, config, name, low_cpu_mem_usage=True)
            else:
                model.add_adapter(name, config, low_cpu_mem_usage=True)
    return model


def _new(adapted: Any) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that adapters have added, under all their names."""
    own = of_base(adapted)
    return [(n, p) for n, p in adapted.named_parameters(remove_duplicate=False) if not own(n)]


def _layers(base: nn.Module) -> dict[str, nn.Module]:
    """Return the outermost modules that PEFT has put into a model, by name."""
    found: dict[str, nn.Module] = {}
    for name, module in base.named_modules():
        if tree.adapts(module) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def _cast(live: dict[str, Tensor], place: Path) -> None:
    """Bring adapters into the dtypes that they were saved in."""
    for name, values in tensors.each(place / WEIGHTS, "the adapter"):
        if name in live and live[name].dtype != values.dtype and live[name].is_floating_point():
            live[name].data = live[name].data.to(values.dtype)


@torch.no_grad()
def _fill(model: Any, live: dict[str, Tensor], place: Path, home: torch.device) -> None:
    """Write what was saved of an adapter, one tensor at a time, to what this rank has of it."""
    owners = _owners(model)
    for name, values in tensors.each(place / WEIGHTS, "the adapter"):
        x = live[name]
        if x.is_meta:
            fill_(*owners[id(x)], values, home)
        else:
            assign(x, values)


def _owners(model: nn.Module) -> dict[int, tuple[nn.Module, str]]:
    """Return the module of every parameter, and its name there, by its id."""
    return {id(p): (module, n) for module in model.modules() for n, p in module._parameters.items()}
