"""What PEFT would do to a model, tried on a copy without memory."""

import sys
import warnings
from typing import Any

import torch
from torch import nn

from hybridopt.core.contracts import Scheme
from hybridopt.core.errors import HybridOptError, HybridOptWarning
from hybridopt.model.quantization.owners import is_frozen, owner
from hybridopt.model.quantization.scheme_names import usual

from .kept import check_kept
from .ranks import useless_rank
from .rehearsal import cast_, check_distinct, check_kind, rehearsed
from .targets import absent, check_targets
from .trial import check_computes

__all__ = ["check", "check_init", "check_request", "kept_modules", "preview"]

INITS = (True, False, "gaussian", "eva")
DENSE_INITS = ("orthogonal", "mica", "olora", "pissa")  # these read the weight of a full-precision layer


def check(
    model: nn.Module,
    config: Any,
    adapter: str = "default",
    scheme: Scheme | None = None,
    dtype: torch.dtype | None = None,
) -> list[str]:
    """Return the names of the modules and parameters that the adapter would be put on; raise where PEFT would fail.

    Args:
        model: without adapters.
        config: any but prompt learning.
        adapter: a name without dots and slashes.
        scheme: by which the model is about to be quantized; None: it stays as it is, quantized or not.
        dtype: of the adapters; None: what PEFT makes.
    """
    trial = preview(model, config, adapter, scheme, dtype)
    return [*trial.base_model.targeted_module_names, *trial.base_model.targeted_parameter_names]


def preview(
    model: nn.Module,
    config: Any,
    adapter: str = "default",
    scheme: Scheme | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """Return what `attach` would make of a copy of a model without memory; raise where PEFT would fail.

    PEFT itself is run on that copy, so its own rules count; model and configuration are unchanged.

    Args:
        model: without adapters.
        config: any but prompt learning.
        adapter: a name without dots and slashes.
        scheme: by which the model is about to be quantized; None: it stays as it is, quantized or not.
        dtype: of the adapters; None: what PEFT makes.
    """
    check_request(model, config, adapter)
    if check_targets(model, config):
        warnings.warn(
            f"target_modules: {absent(model, config)}; PEFT passes over them", HybridOptWarning, stacklevel=2
        )
    _check_dora(model, config, scheme)
    trial = rehearsed(model, config, adapter)
    check_distinct(trial)
    if said := useless_rank(trial):
        warnings.warn(said, HybridOptWarning, stacklevel=2)
    check_computes(model, trial, adapter, scheme, dtype)
    is_quantized = scheme is not None or any(map(is_frozen, model.parameters()))
    is_plain_only = is_quantized or bool(trial.base_model.targeted_parameter_names)
    check_init(getattr(config, "init_lora_weights", True), is_plain_only)
    check_kept(model, config, kept_modules(trial))
    if dtype is not None:
        cast_(trial, dtype)
    return trial


def kept_modules(adapted: Any) -> list[str]:
    """Return the names that the modules of `modules_to_save` have in the base."""
    from peft.utils import ModulesToSaveWrapper

    base = adapted.get_base_model()
    return [name for name, module in base.named_modules() if isinstance(module, ModulesToSaveWrapper)]


def check_request(model: nn.Module, config: Any, adapter: str) -> None:
    """Raise HybridOptError for what is no PEFT config, prompt learning, a bad name, or a model with adapters.

    Args:
        model: what the adapter is for.
        config: what was given as one.
        adapter: what was given as one.
    """
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(config, PeftConfig):
        cure = "take for example peft.LoraConfig(r=16, target_modules='all-linear')"
        raise HybridOptError(f"peft_config={config!r} is no PEFT config; {cure}")
    check_kind(config)
    if not isinstance(adapter, str) or not adapter or set(adapter) & set("./\\"):
        raise HybridOptError(f"adapter_name={adapter!r}: it must be a name without dots and slashes")
    owned = isinstance(model, sys.modules["peft"].PeftModel)
    if owned or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        cure = "add another with model.add_adapter(name, config), or wrap the model without peft_config"
        raise HybridOptError(f"peft_config: the model already has adapters; {cure}")


def _check_dora(model: nn.Module, config: Any, scheme: Scheme | None) -> None:
    there = (owner(p) for p in model.parameters())
    moving = next((s for s in (scheme, *there) if s is not None and s.moves_scales), None)
    on_cpu = any(p.device.type == "cpu" for p in model.parameters())
    if moving is not None and on_cpu and getattr(config, "use_dora", False):
        raise HybridOptError(
            f"use_dora=True with {moving.name} weights on the CPU: PEFT's DoRA loses the scales of the base weight in "
            f"the first forward pass, and the second fails; take quantization={usual(bits=4).name!r}, or "
            "use_dora=False"
        )


def check_init(init: object, is_plain_only: bool) -> None:
    """Raise HybridOptError for a way to start an adapter after which it cannot be loaded again.

    Args:
        init: as in LoraConfig(init_lora_weights=...).
        is_plain_only: is a target quantized, or no linear layer?
    """
    if init in INITS or (init in DENSE_INITS and not is_plain_only):
        return
    allowed = INITS if is_plain_only else (*INITS, *DENSE_INITS)
    reason = "it is random in the base or needs its own preparation, so the adapter could not be loaded again"
    if init in DENSE_INITS:
        reason = "it reads full-precision linear weights, but a target is quantized or no linear layer"
    raise HybridOptError(f"init_lora_weights={init!r}: {reason}; allowed here are {', '.join(map(repr, allowed))}")
