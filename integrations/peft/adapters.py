"""Adapters, by PEFT."""

import copy
import re
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hybridopt.core.contracts import Adapters
from hybridopt.model.fsdp.sharded_tensors import sharded_tensors

from . import (
    attached,
    configurations,
    dry_run,
    kept,
    loaded,
    lora,
    merging,
    onto_shards,
    ranks,
    rehearsal,
    saved,
    scaling,
    starts,
    targets,
    tree,
)

__all__ = ["PeftAdapters"]


@dataclass(frozen=True)
class PeftAdapters(Adapters):
    """PEFT's LoRA and its relatives; prompt learning is refused."""

    files = (saved.WEIGHTS, saved.CONFIG)
    wrapped = ("base_layer", "original_module", "token_adapter")
    writers = ("merge", "unmerge", "unload_and_optionally_merge_module")
    owns = staticmethod(tree.owns)
    members = staticmethod(tree.members)
    adapts = staticmethod(tree.adapts)
    copies = staticmethod(tree.copies)
    is_injected = staticmethod(tree.is_injected)
    is_merged = staticmethod(tree.is_merged)
    is_off = staticmethod(tree.is_off)
    check_savable = staticmethod(scaling.check_scaling)
    changes_base = staticmethod(starts.changes_base)
    absent = staticmethod(targets.absent)
    absent_kept = staticmethod(kept.absent_kept)
    useless_rank = staticmethod(ranks.useless_rank)
    check = staticmethod(dry_run.check)
    preview = staticmethod(dry_run.preview)
    check_attached = staticmethod(attached.check_attached)
    kept_modules = staticmethod(dry_run.kept_modules)
    folder = staticmethod(saved.folder_of)
    save = staticmethod(saved.save)
    saved_names = staticmethod(saved.saved_names)
    prepare = staticmethod(configurations.prepare)
    check_saved = staticmethod(loaded.check_saved)
    load = staticmethod(loaded.load)
    merging = staticmethod(merging.PeftMerging)

    def takes(self, config: object) -> bool:
        """Return whether `config` is a PeftConfig."""
        library = sys.modules.get("peft")
        return library is not None and isinstance(config, library.PeftConfig)

    def make_config(self, rank: int, **settings: Any) -> Any:
        """Return LoRA of this rank, by default on all linear layers but the output layer.

        Args:
            rank: of the adapters.
            settings: as the contract says.
        """
        from peft import LoraConfig

        return LoraConfig(r=rank, **lora.arguments(**settings))

    def code(self, rank: int) -> tuple[str, str]:
        """Return `make_config` as code: the import line, and the expression."""
        return "from peft import LoraConfig", f'LoraConfig(r={rank}, target_modules="all-linear")'

    def rank(self, config: Any) -> int | None:
        """Return `r`."""
        return getattr(config, "r", None)

    def attach(
        self,
        model: nn.Module,
        config: Any,
        adapter: str = "default",
        empty: bool = False,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """Return the PeftModel that PEFT makes of a model, in place; the configuration stays as it is."""
        from peft import get_peft_model

        targets.check_targets(model, config)
        if not empty and sharded_tensors(model):
            return onto_shards.attach(model, config, adapter, dtype)
        adapted = get_peft_model(model, copy.deepcopy(config), adapter, low_cpu_mem_usage=empty)
        if dtype is not None:
            rehearsal.cast_(adapted, dtype)
        return adapted

    def base(self, model: Any) -> nn.Module:
        """Return the model that a PeftModel was made of, compiled or not; other models are their own base."""
        adapted = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
        if adapted and not model.peft_config:
            return model.base_model.model  # all adapters were deleted: PEFT would ask the one that is switched on
        return model.get_base_model() if adapted else model

    def replaced(self, model: Any) -> list[nn.Module]:
        """Return the originals of `modules_to_save` of all adapters, unless they are switched off."""
        adapters = set(self.names(model))
        wrappers: list[Any] = [layer for layer in model.modules() if adapters and self.copies(layer)]
        switched_on = [w for w in wrappers if w.active_adapters and not w.disable_adapters]
        return [w.original_module for w in switched_on if adapters <= set(w.modules_to_save)]

    def altered(self, model: Any) -> list[str]:
        """Return the weights that PiSSA and its relatives have taken a part out of."""
        return starts.altered(model) if self.owns(model) else []

    def base_name(self, name: str) -> str:
        """Return a name without the members that PEFT puts into it."""
        return re.sub(rf"\.({'|'.join(self.wrapped)})(?=\.)", "", name.removeprefix("base_model.model."))

    def original_name(self, name: str) -> str:
        """Return a name without "modules_to_save" and the adapter after it."""
        return re.sub(r"\.modules_to_save\.[^.]+", "", name)

    def own_config(self, model: nn.Module) -> Any:
        """Return the configuration of the adapter "default"; None without."""
        return getattr(model, "peft_config", {}).get("default")

    def names(self, model: Any) -> list[str]:
        """Return the names of all adapters, in the order in which they were added; none where they were taken off."""
        return list(model.peft_config) if self.owns(model) and not tree.is_taken_off(model) else []

    def active(self, model: Any) -> list[str]:
        """Return the names of the adapters that are switched on; none for other models."""
        if not self.names(model):
            return []
        return list(tree.layers(model)[0].active_adapters if tree.is_injected(model) else model.active_adapters)
