"""Ways to begin adapters that change the base: PEFT itself is asked, on a layer of its own."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["altered", "changes_base", "plainly"]

UNSET: tuple[str, ...] = ("task_type", "modules_to_save", "exclude_modules", "target_parameters")
UNSET += ("trainable_token_indices", "layers_to_transform", "layers_pattern", "layer_replication")
LARGEST_RANK, LEAST_SIZE = 32, 64
KEEPS, ALTERS, FAILS = "keeps", "alters", "fails"


def altered(model: Any) -> list[str]:
    """Return the names of the base parameters in layers whose adapters began by changing them."""
    adapters = {name for name, config in model.peft_config.items() if changes_base(config)}
    found = []
    for path, module in model.named_modules() if adapters else ():
        base = module._modules.get("base_layer")
        if base is not None and any(adapters & set(getattr(module, n, ())) for n in module.adapter_layer_names):
            found += [f"{path}.base_layer.{name}" for name, _ in base.named_parameters()]
    return found


def changes_base(config: Any) -> bool:
    """Return whether adapters of a configuration begin by changing the base, or need some preparation to begin."""
    return _outcome(config) != KEEPS


@contextmanager
def plainly(config: Any) -> Iterator[None]:
    """Let adapters of a configuration begin without changing the base: for loading, where all comes from files."""
    name = _named(config)
    if not name or not changes_base(config):
        yield
        return
    start = getattr(config, name)
    setattr(config, name, True)
    try:
        yield
    finally:
        setattr(config, name, start)


def _named(config: Any) -> str:
    """Return which member of a configuration says by name how adapters begin; "" where none does."""
    return next((n for n in ("init_lora_weights", "init_weights") if isinstance(getattr(config, n, None), str)), "")


def _outcome(config: Any) -> str:
    """Return what becomes of the weight of a layer when PEFT puts an adapter of this configuration on it.

    A start by name that cannot be tried, as it needs some preparation, FAILS; it may change the weight, too.
    """
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = _on_one_layer(config)
        rank = trial.r if isinstance(getattr(trial, "r", None), int) else LARGEST_RANK
        size = max(LEAST_SIZE, 2 * rank)
        layer = nn.Linear(size, size)
        before = layer.weight.detach().clone()
        try:
            get_peft_model(nn.ModuleDict({"layer": layer}), trial)
        except Exception:  # PEFT raises many types
            return FAILS if _named(config) else KEEPS
    return KEEPS if torch.equal(before, layer.weight) else ALTERS


def _on_one_layer(config: Any) -> Any:
    """Return the configuration for a layer by the name of "layer" alone, of a small rank."""
    config = copy.deepcopy(config)
    config.target_modules = ["layer"]
    for name in UNSET:
        if hasattr(config, name):
            setattr(config, name, None)
    for name in ("rank_pattern", "alpha_pattern"):
        if hasattr(config, name):
            setattr(config, name, {})
    if isinstance(getattr(config, "r", None), int):
        config.r = min(config.r, LARGEST_RANK)
    return config
