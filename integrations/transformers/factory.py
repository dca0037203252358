"""Make the optimizer for an unchanged transformers `Trainer`."""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError, HybridOptWarning
from hybridopt.model.containers import original
from hybridopt.optimizer.optimizer import HybridOptimizer
from hybridopt.optimizer.releases import release_class
from hybridopt.policy.routes import Ready, read_policy
from hybridopt.strategy import Strategy
from hybridopt.wrapping import wrap

__all__ = ["HybridOptimizerFactory", "own_options"]

FIRST = ("quantization", "peft_config")  # of `wrap`: they change the model, which the Trainer holds already


class HybridOptimizerFactory:
    """Makes the optimizer of a transformers Trainer from the whole model.

    For `Trainer(optimizer_cls_and_kwargs=(HybridOptimizerFactory, {"lr": 1e-4}))`. A model that is wrapped keeps its
    policy, and any other is wrapped here, so that `trainer.model.hybrid` is there afterwards. Adapters that were added
    since `wrap` are trained, too.
    """

    def __call__(
        self,
        model: nn.Module,
        lr: float | Tensor | None = None,
        policy: str | Ready | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> HybridOptimizer:
        """Make the optimizer of a model, which is taken out of its DDP, FSDP or torch.compile container.

        Args:
            model: what the Trainer was given.
            lr: required, since the Trainer hands none of its own on; its schedules start from this one.
            policy: as in `wrap`; "frugal" unless the model is wrapped.
            seed: as in `wrap`; 0 unless the model is wrapped.
            options: weight_decay, nonfinite, release, clip and clip_mode as in `Strategy.optimizer`, and the named
                policy's options. With release="fused" the Trainer finds no gradients any more: its max_grad_norm does
                nothing, so `clip` must be given, and it logs a grad_norm of 0; `optimizer.grad_norm` is the true one.
                gradient_accumulation_steps works: gradients are held until the last micro-batch.

        Raises:
            HybridOptError: lr is missing, an option is unknown, or policy or seed are other than the model's.
        """
        if lr is None:
            raise HybridOptError(
                "lr is missing: the Trainer keeps learning_rate and weight_decay to itself; give "
                "optimizer_cls_and_kwargs=(HybridOptimizerFactory, {'lr': args.learning_rate})"
            )
        _check_first(options)
        own = {key: options.pop(key) for key in own_options() if key in options}
        _settle_clip(own)
        _warn_of_names(model)
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


def _strategy(model: nn.Module, policy: str | Ready | None, seed: int | None, options: dict[str, Any]) -> Strategy:
    """Return the model's strategy; a model that has none is wrapped."""
    there = getattr(model, "hybrid", None)
    if not isinstance(there, Strategy):
        return _wrapped(model, _asked(policy, options), 0 if seed is None else seed)
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
    return _wrapped(model, there.policy, there.seed)  # a PeftModel made of the wrapped model


def _wrapped(model: nn.Module, policy: Ready, seed: int) -> Strategy:
    return cast(Strategy, wrap(model, policy, seed=seed).hybrid)


def _asked(policy: str | Ready | None, options: dict[str, Any]) -> Ready:
    try:
        return read_policy("frugal" if policy is None else policy, options)
    except HybridOptError as error:
        others = ", ".join(("lr", "policy", "seed", *own_options()))
        raise HybridOptError(f"{error} (HybridOptimizerFactory itself takes {others})") from error


def _check_first(options: dict[str, Any]) -> None:
    for key in FIRST:
        if key in options:
            raise HybridOptError(
                f"{key}={options[key]!r} changes the model, which the Trainer holds already; call "
                f"hybridopt.wrap(model, {key}=...) first and give the Trainer what it returns"
            )


def _settle_clip(own: dict[str, Any]) -> None:
    """Require `clip` for a release that frees gradients: the Trainer clips by default, and would find none.

    None becomes infinity: it was asked for, whatever the Trainer's max_grad_norm is.
    """
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
    own["clip"] = float("inf") if own["clip"] is None else own["clip"]


def _warn_of_loss(names: Sequence[str]) -> None:
    if names:
        warnings.warn(
            f"the Trainer's checkpoints of a PeftModel hold its adapters, and not {names[0]!r} ({len(names)} base "
            "parameters are trained here): name them in LoraConfig(modules_to_save=...), or save with "
            "model.hybrid.save_pretrained, which keeps them",
            HybridOptWarning,
            stacklevel=3,
        )


def _warn_of_names(model: nn.Module) -> None:
    if original(model) is not model:
        warnings.warn(
            "of a model that is compiled already the Trainer writes names that begin with '_orig_mod' into its "
            "checkpoints, from which nobody loads a plain model: give the Trainer the model itself, and "
            "TrainingArguments(torch_compile=True). What model.hybrid.save_pretrained writes is as ever",
            HybridOptWarning,
            stacklevel=3,
        )


def own_options() -> list[str]:
    """Return the names of the options of `Strategy.optimizer`, without lr."""
    return [key for key in inspect.signature(Strategy.optimizer).parameters if key not in ("self", "lr", "unknown")]


def _contained(model: nn.Module) -> nn.Module:
    """Return the model that a container for compiling or for several devices holds."""
    from accelerate.utils import extract_model_from_parallel

    while (inner := extract_model_from_parallel(model, keep_torch_compile=False)) is not model:
        model = inner
    return model
