"""`wrap`: check everything, then quantize, add adapters and attach the strategy."""

import warnings
from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from torch import nn

from .core.errors import HybridOptError, HybridOptWarning, check_count
from .model.base_record import merged, record, remembered
from .model.quantization.int8_layers import TRAINABLE, int8_layers
from .model.roles import Param, params
from .policy.plan import Plan
from .policy.routes import Ready, check_routes, read_policy
from .strategy import Strategy

__all__ = ["attach_strategy", "wrap"]


def wrap(
    model: nn.Module,
    policy: str | PathLike | Ready = "frugal",
    *,
    peft_config: Any = None,
    quantization: str | None = None,
    seed: int = 0,
    **policy_options: Any,
) -> nn.Module:
    """Attach `model.hybrid`, a Strategy, and return the same object; with `peft_config` the PeftModel that PEFT makes.

    Args:
        model: any nn.Module with real weights; names, state_dict and forward stay as they are.
        policy: a name (see `hybridopt policies`), a Policy, or a path to a policy .json. "auto": the way to train
            that is closest to AdamW on all weights and fits into `memory` ("24GiB"; by default the model's GPU), with
            seq_len=2048, batch=1 and micro_batches=1 as further options; see `hybridopt plan`.
        peft_config: any PEFT LoraConfig; adapters are added first, then everything is tagged.
        quantization: "nf4" (with double quantization), "fp4" or "int8": linear layers but the output layer are
            quantized by bitsandbytes, one by one, and frozen. "int8-trainable": the same layers keep 8-bit codes and
            are trained on them, without adapters.
        seed: of every random choice of training.
        policy_options: the named policy's, such as density, update_gap, split, free_lr_scale.

    Raises HybridOptError, before the model is changed, for anything that cannot be done.
    """
    _check_model(model)
    check_count("wrap", "seed", seed, 0)
    if policy == "auto":
        return _wrap_auto(model, peft_config, quantization, seed, policy_options)
    ready = read_policy(policy, policy_options)
    names = _check_changes(model, peft_config, quantization)
    _check_policy(model, ready, seed, (quantization, names), peft_config is not None)
    base = merged(remembered(model), record(model))
    if names:
        from .integrations.bitsandbytes import layers as bitsandbytes

        bitsandbytes.quantize_(model, quantization, names)
    if ready.opens_scales:
        from .integrations.bitsandbytes.scales import open_scales

        open_scales(model)
    if peft_config is not None:
        from .integrations.peft import adapters as peft

        model = peft.attach(model, peft_config)
    return attach_strategy(model, ready, seed, base, quantization if names else None, names)


def _wrap_auto(model, peft_config, quantization, seed, options):
    from .auto import chosen, prepare_  # it imports the planner

    choice, peft_config = chosen(model, peft_config=peft_config, quantization=quantization, **options)
    request = choice.request
    given = {"peft_config": peft_config, "quantization": request.quantization, "seed": seed}
    wrapped = wrap(model, request.policy, **given, **request.options)
    prepare_(wrapped, choice)
    return wrapped


def attach_strategy(model, policy, seed, base, quantization=None, quantized=()) -> nn.Module:
    """Guard quantized layers and set `model.hybrid`."""
    from .integrations.bitsandbytes import layers as bitsandbytes

    bitsandbytes.guard(model)
    inner = _inner_strategy(model)
    strategy = Strategy(model, policy, seed, base)
    if coded := int8_layers(model):
        quantization, quantized = TRAINABLE, coded
    strategy.quantization, strategy.quantized = quantization, tuple(quantized)
    if inner is not None:
        strategy.adopt(inner)
    model.hybrid = strategy
    return model


def _check_model(model):
    if not isinstance(model, nn.Module):
        raise HybridOptError(f"model={type(model).__name__} is not allowed; give an nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise HybridOptError("a ScriptModule cannot be wrapped; wrap the nn.Module it was made from, then script that")
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


def _check_changes(model, peft_config, quantization):
    """The names of the layers to quantize, after a dry run of everything that will change the model."""
    from .integrations.bitsandbytes import layers as bitsandbytes
    from .integrations.peft import adapters as peft

    _check_codes(model, peft_config, quantization)
    if peft_config is not None:
        peft.check(model, peft_config, "default", quantization)
    if quantization is None:
        bitsandbytes.guard(model)
        return []
    head = {p.name.rpartition(".")[0] for p in params(model) if p.role == "head"}
    kept = [] if peft_config is None else peft.kept_modules(model, peft_config)
    return bitsandbytes.check(model, quantization, sorted(head | set(kept)))


def _check_codes(model, peft_config, quantization):
    """Adapters are for a base that stays as it is."""
    adapters = peft_config is not None or any(hasattr(m, "adapter_layer_names") for m in model.modules())
    if adapters and (quantization == TRAINABLE or int8_layers(model)):
        raise HybridOptError(
            f"quantization={TRAINABLE!r} trains the base weights, and adapters freeze them; leave the adapters out, "
            "or take a frozen base: quantization='int8' or 'nf4'"
        )


def _check_policy(model, ready, seed, quantized, adapters):
    """Resolve the policy on the model as it will be."""
    scheme, layers = quantized
    now = [
        _as_quantized(p, scheme) if p.name.rpartition(".")[0] in layers and p.name.endswith("weight") else p
        for p in params(model)
    ]
    if ready.opens_scales:
        now += _scales(now)
    if adapters:
        now = [Param(p.name, p.role, p.shape, p.dtype, p.role == "scales") for p in now]
        now.append(Param("lora_A.default.weight", "adapter", (8, 8)))
    plan = Plan.of(now, ready, seed)
    if not plan.trained and any(p.trainable for p in now):
        raise HybridOptError("nothing to train: the policy freezes every parameter that is not quantized")
    if not plan.trained and _inner_strategy(model) is None and any(p.role == "quantized" for p in now):
        raise HybridOptError(
            "nothing to train: the base is quantized and everything else is frozen; pass peft_config=LoraConfig(...)"
        )
    if not adapters:
        check_routes(ready, plan.tags)
    if any(e.tag == "state-free" and e.param.role == "head" and not e.treatment.probed for e in plan.entries):
        warnings.warn(
            "the output layer is state-free, which ruins training of language models (34.7 against 20.0 perplexity in "
            'FRUGAL\'s ablation); head="full" keeps it state-full',
            HybridOptWarning,
            stacklevel=3,
        )


def _scales(params):
    """The scales that will be there, one for each quantized weight; their sizes do not matter yet."""
    quantized = [p for p in params if p.role == "quantized"]
    if not quantized:
        raise HybridOptError(
            "this policy trains the scales of quantized weights, and there are none: pass quantization='nf4', 'fp4' "
            "or 'int8', or give a model that bitsandbytes has quantized"
        )
    open_already = {p.name for p in params if p.role == "scales"}
    return [Param(f"{p.name}.absmax", "scales", p.shape[:1]) for p in quantized if not open_already]


def _as_quantized(p, scheme):
    if scheme == TRAINABLE:
        return replace(p, codes=torch.uint8)
    return Param(p.name, "quantized", p.shape, torch.uint8, False)


def _inner_strategy(model):
    """The strategy of the base model, where LoRA was added by hand after `wrap`."""
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        return None
    return model.get_base_model().__dict__.get("hybrid")
