"""`wrap`: check everything, then quantize, add adapters and attach the strategy."""

import warnings
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import nn

from .core.contracts import Activations
from .core.errors import HybridOptWarning, check_count
from .model.activations.refusals import check_one_device
from .model.activations.scheme import check_named, read_activations
from .model.adapted_tensors import altered
from .model.adapters import bare, library_for
from .model.base_record import Base, Origin, forget, merged, record, remember, remembered
from .model.changed_codes import codes_record, unknown, updated
from .model.containers import as_given, check_container, compiled_in_place, uncompiled
from .model.fsdp.sharded_tensors import reshard_
from .model.loading.missing_tensors import unstored
from .model.placement.guarding.refusals import check_keeps_base, check_not_quantized
from .model.placement.guarding.trained_scales import open_scales_
from .model.placement.in_memory import Settled, place_in_memory_, settle
from .model.placement.placed import placed
from .model.placement.placement import Placement, read_placement
from .model.quantization.coded import coded_names
from .model.quantization.layers import place
from .model.quantization.owners import owner, scheme_of
from .model.quantization.replacing import guard_, quantize_
from .model.roles import base_name
from .optimizer.foreign_optimizers import watch
from .policy.plan import Plan
from .policy.routes import Ready, Route, read_policy
from .strategy import Strategy
from .wrap_checks import check_activations, check_changes, check_model, check_policy, check_shards, inner_strategy

__all__ = ["attach_strategy", "wrap"]


def wrap(
    model: nn.Module,
    policy: str | PathLike[str] | Ready[Route] = "frugal",
    *,
    peft_config: Any = None,
    quantization: str | None = None,
    adapter_dtype: str | torch.dtype | None = None,
    placement: str | Placement | None = None,
    activations: str | Activations | None = None,
    seed: int = 0,
    **policy_options: Any,
) -> nn.Module:
    """Attach `model.hybrid`, a Strategy, and return the same object; with `peft_config` the PeftModel that PEFT makes.

    What `torch.compile` has returned stays compiled: with `peft_config` the PeftModel is, in place, in the same way.

    Args:
        model: any nn.Module with real weights; names, state_dict and forward stay as they are.
        policy: a name (see `hybridopt policies`), a Policy, or a path to a policy .json. "auto": the way to train
            that is closest to AdamW on all weights and fits into `memory` ("24GiB"; by default the model's GPU), with
            seq_len=2048, batch=1 and micro_batches=1 as further options; see `hybridopt plan`.
        peft_config: of LoRA, or of any tuner of PEFT that can be saved and trained on; the adapters are added first,
            then everything is tagged.
        quantization: "nf4" (with double quantization), "fp4" or "int8": linear layers but the output layer are
            quantized by bitsandbytes, one by one, and frozen. "int8-trainable": the same layers keep 8-bit codes and
            are trained on them, without adapters.
        adapter_dtype: "bfloat16", "float16" or "float32", in which the new adapters are kept and trained; None: what
            PEFT makes, which is float32 on a base in 16 or fewer bits.
        placement: where the weights of layers rest between their uses, for a model that is in memory: "host" (a GPU
            computes), Placement("disk", cache=FOLDER), or "auto"; None: where they are, so that a model placed by
            `load` stays as it is.
        activations: what trained linear layers, but the output layer, keep of their inputs for the backward pass:
            "wta-crs" (three of ten rows, for gradients that are right on average) or WtaCrs(share=...); None: all.
        seed: of every random choice of training.
        policy_options: the named policy's, such as density, update_gap, split, free_lr_scale.

    Raises:
        HybridOptError: before the model is changed, for anything that cannot be done.
    """
    check_model(model)
    check_count("wrap", "seed", seed, 0)
    wanted, scheme = read_placement(placement, "wrap"), read_activations(activations, "wrap")
    check_not_quantized(model, quantization)
    reshard_(model)
    check_shards(model, peft_config, quantization, wanted)
    check_container(model, bool(peft_config or quantization or wanted or policy == "auto"))
    if scheme is not None:
        check_one_device(model)
    with uncompiled(model) as inner:
        asked = _Asked(peft_config, quantization, adapter_dtype, settle(inner, wanted), scheme, seed)
        wrapped = _wrap(inner, policy, policy_options, asked)
    if wrapped is not inner and compiled_in_place(inner):
        warnings.warn(
            f"adapters call the forward method of {type(inner).__name__}, and so go past what model.compile() has "
            "compiled: call compile() on what wrap returns",
            HybridOptWarning,
            stacklevel=2,
        )
    given = as_given(model, wrapped)
    wrapped.__dict__["hybrid"].held_by(given)
    return given


@dataclass(frozen=True)
class _Asked:
    """What `wrap` is asked for beside the policy; `resting` and `activations` are read already."""

    peft_config: Any
    quantization: str | None
    adapter_dtype: str | torch.dtype | None
    resting: Settled | None
    activations: Activations | None
    seed: int


def _wrap(
    model: nn.Module, policy: str | PathLike[str] | Ready[Route], options: dict[str, Any], asked: _Asked
) -> nn.Module:
    """Wrap a model in no container; see `wrap`.

    Args:
        model: without `torch.compile` around it.
        policy: as given.
        options: of the policy.
        asked: what else.
    """
    if policy == "auto":
        return _wrap_auto(model, options, asked)
    ready = read_policy(policy, options)
    changes = check_changes(model, ready, asked.peft_config, asked.quantization, asked.adapter_dtype)
    check_keeps_base(model, changes.adapters, asked.peft_config, asked.resting)
    plan = check_policy(model, ready, asked.seed, changes)
    check_activations(model, asked.activations, plan, changes)
    origin, now, lost = remembered(model), record(model), altered(model)
    base = merged(origin.base, now, unstored(model) | lost)
    lost = lost | {name for name, mark in now.items() if mark != base.get(name, mark)}
    if changes.scheme is not None:
        quantize_(model, changes.scheme, changes.layers)
    if changes.opens_scales:
        open_scales_(model)
    if asked.resting is not None:
        place_in_memory_(model, asked.resting)
    if changes.adapters is not None:
        model = changes.adapters.attach(model, asked.peft_config, dtype=changes.dtype)
    if changes.scheme is not None and changes.layers:
        origin = Origin({}, origin.codes, changes.scheme.name, tuple(changes.layers))
    wrapped = attach_strategy(model, ready, asked.seed, _renewed(model, origin, base, lost), plan)
    wrapped.__dict__["hybrid"].keep_activations(asked.activations)
    return wrapped


def _renewed(model: nn.Module, origin: Origin, base: Base, lost: set[str]) -> Origin:
    """Return what a model is known to have been, with the names of layers that are still quantized as they were.

    Args:
        model: as it will be trained.
        origin: what it was when it was wrapped before, or what has been done to it now.
        base: the record of its tensors.
        lost: base names of tensors that are not as in `base` any more: codes made of them are of no base.
    """
    kept = ((base_name(n).removesuffix(".weight"), owner(p)) for n, p in model.named_parameters())
    schemes = {name: scheme.name for name, scheme in kept if scheme is not None}
    same = all(schemes.get(n) == origin.quantization for n in origin.quantized)
    codes = updated(origin.codes, unknown(codes_record(model), lost))
    return Origin(base, codes, *((origin.quantization, origin.quantized) if same else ()))


def _wrap_auto(model: nn.Module, options: dict[str, Any], asked: _Asked) -> nn.Module:
    """Wrap a model by the way that is chosen for it; `options`: memory, margin and sizes, for the choice."""
    from .auto import chosen, prepare_  # it imports the planner

    check_named(asked.activations)
    if asked.peft_config is not None:
        library_for(asked.peft_config).check(model, asked.peft_config)
    placement = None if asked.resting is None else asked.resting.placement
    there = placed(model)
    choice, peft_config = chosen(
        model,
        peft_config=asked.peft_config,
        quantization=asked.quantization,
        adapter_dtype=asked.adapter_dtype,
        placement=placement if there is None else there.placement,
        **options,
    )
    request = choice.request
    wrapped = wrap(
        model,
        request.policy,
        peft_config=peft_config,
        quantization=request.quantization,
        adapter_dtype=request.adapter_dtype if peft_config is not None else None,
        placement=placement,
        seed=asked.seed,
        **request.options,
    )
    prepare_(wrapped, choice)
    return wrapped


def attach_strategy(
    model: Any,
    policy: Ready[Route],
    seed: int,
    origin: Origin,
    plan: Plan | None = None,
) -> nn.Module:
    """Set `model.hybrid` and return the model; its quantized layers are guarded against what would spoil them.

    Args:
        model: quantized and with adapters, if it is to have them.
        policy: how to train it.
        seed: of every random choice of training.
        origin: what it was before. Layers that are trained as codes are found anyway.
        plan: the policy resolved on this model; where it is of other parameters, or None, it is resolved anew.
    """
    guard_(model)
    if (there := placed(model)) is not None:
        there.settle()
    inner = inner_strategy(model)
    strategy = Strategy(model, policy, seed, origin, plan)
    if coded := coded_names(model):
        strategy.quantization, strategy.quantized = scheme_of(place(model, coded[0])[0]), tuple(coded)
    if inner is not None:
        strategy.adopt(inner)
    if bare(model) is model:
        forget(model)  # the strategy has it, until `unwrap`
    else:
        remember(model, strategy.origin)  # adapters may be merged, and their model left behind with its strategy
    model.hybrid = strategy
    watch(strategy)
    wrapped: nn.Module = model
    return wrapped
