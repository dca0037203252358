"""The optimizer for an unchanged transformers `Trainer`."""

import inspect
import warnings
from typing import Any

from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError, HybridOptWarning
from hybridopt.optimizer.optimizer import HybridOptimizer
from hybridopt.optimizer.releases import release_class
from hybridopt.policy.routes import Ready, read_policy
from hybridopt.strategy import Strategy
from hybridopt.wrapping import wrap

__all__ = ["HybridOptimizerFactory"]

FIRST = ("quantization", "peft_config")  # of `wrap`: they change the model, which the Trainer holds already


class HybridOptimizerFactory:
    """For `Trainer(optimizer_cls_and_kwargs=(HybridOptimizerFactory, {"lr": 1e-4}))`: it is given the whole model.

    A model that is wrapped keeps its policy, any other is wrapped here, so `trainer.model.hybrid` is there afterwards.
    Adapters added since `wrap` are taken in, too.
    """

    def __call__(
        self,
        model: nn.Module,
        lr: float | Tensor | None = None,
        policy: str | Ready | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> HybridOptimizer:
        """The optimizer of `model`, out of its DDP, FSDP or torch.compile container.

        Args:
            model: what the Trainer was given.
            lr: required, since the Trainer hands none of its own on; its schedules start from this one.
            policy: as in `wrap`; "frugal" unless the model is wrapped.
            seed: as in `wrap`; 0 unless the model is wrapped.
            options: weight_decay, nonfinite, release, clip and clip_mode as in `Strategy.optimizer`, and the named
                policy's options. With release="fused" the Trainer finds no gradients any more: its max_grad_norm does
                nothing, so `clip` must be given, and it logs a grad_norm of 0; `optimizer.grad_norm` is the true one.
                gradient_accumulation_steps works: gradients are held until the last micro-batch.

        Raises HybridOptError for a missing lr, for unknown options, and for a policy or seed other than the model's.
        """
        if lr is None:
            raise HybridOptError(
                "lr is missing: the Trainer keeps learning_rate and weight_decay to itself; give "
                "optimizer_cls_and_kwargs=(HybridOptimizerFactory, {'lr': args.learning_rate})"
            )
        _check_first(options)
        own = {key: options.pop(key) for key in _own_options() if key in options}
        _check_clip(own)
        model = _contained(model)
        bare = not isinstance(getattr(model, "hybrid", None), Strategy)
        strategy = _strategy(model, policy, seed, options)
        try:
            optimizer = strategy.optimizer(lr=lr, **own)
        except HybridOptError:
            if bare:
                strategy.unwrap()
            raise
        _warn_of_loss(strategy.unfrozen())
        return optimizer


def _strategy(model, policy, seed, options) -> Strategy:
    """The model's strategy, made if there is none."""
    there = getattr(model, "hybrid", None)
    if not isinstance(there, Strategy):
        return wrap(model, _asked(policy, options), seed=0 if seed is None else seed).hybrid
    if (policy is not None or options) and _asked(policy, options) != there.policy:
        raise HybridOptError(
            f"the model is wrapped with {there.policy!r}, and optimizer_cls_and_kwargs asks for policy="
            f"{policy or 'frugal'!r} with {options}; leave policy and its options out, or call model.hybrid.unwrap()"
        )
    if seed not in (None, there.seed):
        raise HybridOptError(
            f"seed={seed!r}, but the model is wrapped with seed={there.seed}; leave it out, or call "
            "model.hybrid.unwrap() first"
        )
    if "hybrid" in vars(model):
        return there
    return wrap(model, there.policy, seed=there.seed).hybrid  # a PeftModel made of the wrapped model


def _asked(policy, options) -> Ready:
    try:
        return read_policy("frugal" if policy is None else policy, options)
    except HybridOptError as error:
        others = ", ".join(("lr", "policy", "seed", *_own_options()))
        raise HybridOptError(f"{error} (HybridOptimizerFactory itself takes {others})") from error


def _check_first(options):
    for key in FIRST:
        if key in options:
            raise HybridOptError(
                f"{key}={options[key]!r} changes the model, which the Trainer holds already; call "
                f"hybridopt.wrap(model, {key}=...) first and give the Trainer what it returns"
            )


def _check_clip(own):
    """The Trainer clips by default, and would find nothing to clip."""
    release = release_class(own.get("release"))
    if not release.frees_gradients:
        return
    known_before = "clip_mode='previous' (by the norm of the step before) or 'tensor' (each by itself)"
    if "clip" not in own:
        raise HybridOptError(
            f"release={release.name!r} frees gradients before the Trainer can clip them to max_grad_norm; say what is "
            f"to be done instead: clip=1.0 with {known_before}, or clip=None"
        )
    if own["clip"] is not None and own.get("clip_mode", "global") == "global":
        raise HybridOptError(
            f"clip={own['clip']!r} with clip_mode='global' and release={release.name!r} needs "
            f"optimizer.measure(loss), which the Trainer does not call; take {known_before}"
        )


def _warn_of_loss(names):
    if names:
        warnings.warn(
            f"the Trainer's checkpoints of a PeftModel hold its adapters, and not {names[0]!r} ({len(names)} base "
            "parameters are trained here): name them in LoraConfig(modules_to_save=...), or save with "
            "model.hybrid.save_pretrained, which keeps them",
            HybridOptWarning,
            stacklevel=3,
        )


def _own_options() -> list[str]:
    return [key for key in inspect.signature(Strategy.optimizer).parameters if key not in ("self", "lr")]


def _contained(model):
    """The model that a container for compiling or for several devices holds."""
    from accelerate.utils import extract_model_from_parallel

    while (inner := extract_model_from_parallel(model, keep_torch_compile=False)) is not model:
        model = inner
    return model
