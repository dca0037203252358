"""What `wrap` checks before it changes anything of a model."""

import warnings
from typing import Any

import torch
from torch import nn

from .core.contracts import Activations, Scheme
from .core.errors import HybridOptError, HybridOptWarning
from .model.activations.linear import trained_layers
from .model.activations.refusals import check_layers, check_not_repeated, check_trains, repeats
from .model.adapters import adapted_layers, bare, check_attached, dtype_of_adapters, library_for
from .model.containers import contained
from .model.fsdp.sharded_tensors import check_plain
from .model.fsdp.units import check_not_run
from .model.planned_parameters import Changes, foreseen
from .model.quantization.coded import coded_names
from .model.quantization.layers import place
from .model.quantization.owners import owner
from .model.quantization.replacing import guard_
from .model.quantization.scheme_names import frozen_names, named
from .model.quantization.targets import check, warn_of_read
from .model.roles import head_modules
from .model.unquantized import unquantized
from .policy.end_rates import unused
from .policy.output_layers import state_free
from .policy.plan import Plan
from .policy.routes import Ready, Route, check_routes
from .strategy import Strategy

__all__ = ["check_activations", "check_changes", "check_model", "check_policy", "check_shards", "inner_strategy"]


def check_model(model: Any) -> None:
    """Raise HybridOptError for what cannot be wrapped, whatever the policy: no module, no values, wrapped already."""
    if not isinstance(model, nn.Module):
        raise HybridOptError(f"model={type(model).__name__} is not allowed; give an nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise HybridOptError("a ScriptModule cannot be wrapped; wrap the nn.Module it was made from, then script that")
    model = contained(model)
    members = (model.__dict__, model._parameters, model._buffers, model._modules)
    if hasattr(type(model), "hybrid") or any("hybrid" in each for each in members):
        wrapped = isinstance(model.__dict__.get("hybrid"), Strategy)
        cure = "call model.hybrid.unwrap() first" if wrapped else "rename that attribute"
        raise HybridOptError(f"{type(model).__name__} {'is wrapped already' if wrapped else 'has a `hybrid`'}; {cure}")
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise HybridOptError(f"parameter {name!r} has no shape yet; run one forward pass before wrapping")
        if p.is_meta:
            raise HybridOptError(f"parameter {name!r} is on meta and has no values; load the weights before wrapping")
    if not any(True for _ in model.parameters()):
        raise HybridOptError(f"{type(model).__name__} has no parameters")


def check_shards(model: nn.Module, peft_config: Any, quantization: str | None, placement: Any) -> None:
    """Raise HybridOptError for what cannot be done to a model that is sharded already; a plain one passes.

    Args:
        model: as it is.
        peft_config: of the adapters; None: there will be none.
        quantization: name of a scheme; None: nothing is quantized.
        placement: where weights are to rest; None: where they are.
    """
    scheme = None if quantization is None else named(quantization, "wrap")
    if placement is not None:
        check_plain(model, "leave placement out for sharded models")
    if scheme is not None and not scheme.trains:
        check_plain(model, "quantize before it is sharded: wrap first, then fully_shard")
    if scheme is not None or peft_config is not None:
        check_not_run(model, "adapters" if scheme is None else "quantized weights")


def check_changes(
    model: nn.Module,
    ready: Ready[Route],
    peft_config: Any,
    quantization: str | None,
    adapter_dtype: str | torch.dtype | None,
) -> Changes:
    """Return what is going to be done to the model, after a dry run of it.

    Args:
        model: as it is.
        ready: the policy.
        peft_config: of the adapters; None: there will be none.
        quantization: name of a scheme; None: nothing is quantized.
        adapter_dtype: what the adapters are kept in; None: what their library makes.
    """
    scheme = None if quantization is None else named(quantization, "wrap")
    dtype = dtype_of_adapters("wrap", adapter_dtype, peft_config is not None)
    _check_codes(model, peft_config is not None, scheme)
    if peft_config is None:
        check_attached(model)
        library = preview = None
    else:
        library = library_for(peft_config)
        preview = library.preview(model, peft_config, "default", scheme, dtype)
    layers: list[str] = []
    kept: list[str] = []
    if scheme is None:
        guard_(model)
    else:
        kept = [] if library is None or preview is None else library.kept_modules(preview)
        kept = sorted({*head_modules(model), *kept})
        layers = check(model, scheme, kept)
        if layers:
            warn_of_read(model, scheme, kept, stacklevel=4)
    return Changes(scheme, layers, kept, ready.opens_scales, library, preview, dtype)


def check_activations(model: nn.Module, scheme: Activations | None, plan: Plan, changes: Changes) -> None:
    """Raise HybridOptError where inputs of trained linear layers cannot be kept as a scheme says.

    Args:
        model: as it is.
        scheme: of what is kept; None: everything.
        plan: the policy, resolved on the parameters that the model will have.
        changes: what is going to be done to the model.
    """
    if scheme is None:
        return
    check_trains(plan.trained)
    check_not_repeated(repeats(model))
    then = model if changes.preview is None else changes.preview
    check_layers(model, trained_layers(then, plan.trained))


def _check_codes(model: nn.Module, adds_adapters: bool, scheme: Scheme | None) -> None:
    """Raise HybridOptError for adapters on weights that are trained as codes: they are for a base that stays."""
    coded = coded_names(model)
    there = scheme
    if coded:
        module, member = place(model, coded[0])
        there = owner(module.get_parameter(member))
    if there is not None and there.trains and (adds_adapters or adapted_layers(model)):
        raise HybridOptError(
            f"quantization={there.name!r} trains the base weights, and adapters freeze them; leave the adapters out, "
            f"or take a frozen base: quantization={frozen_names()}"
        )


def check_policy(model: nn.Module, ready: Ready[Route], seed: int, changes: Changes) -> Plan:
    """Resolve the policy on the parameters that the model will have, and return the plan.

    Args:
        model: as it is.
        ready: the policy.
        seed: of every random choice of training.
        changes: what is going to be done to the model.
    """
    now = foreseen(model, changes)
    plan = Plan.of(now, ready, seed)
    if not plan.trained and any(p.trainable for p in now):
        raise HybridOptError("nothing to train: the policy freezes every parameter that is not quantized")
    if not plan.trained and inner_strategy(model) is None and any(p.role == "quantized" for p in now):
        raise HybridOptError(
            "nothing to train: the base is quantized and everything else is frozen; pass peft_config=LoraConfig(...)"
        )
    check_routes(ready, plan.tags)
    left = unquantized(model, changes.scheme, changes.layers, changes.kept)
    if left is not None and left.surprising:
        warnings.warn(f"{type(bare(model)).__name__}: {left}", HybridOptWarning, stacklevel=4)
    for text in filter(None, (state_free(plan.entries), unused(ready, plan.entries))):
        warnings.warn(text, HybridOptWarning, stacklevel=4)
    return plan


def inner_strategy(model: nn.Module) -> Strategy | None:
    """Return the strategy of the base model, where adapters were added by hand after `wrap`; None without."""
    inner = bare(model)
    return None if inner is model else inner.__dict__.get("hybrid")
