"""Refuse settings of a transformers `Trainer` under which probes would go wrong."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from transformers import Trainer, TrainingArguments

from hybridopt.core.errors import HybridOptError
from hybridopt.optimizer.optimizer import HybridOptimizer
from hybridopt.optimizer.releases import release_class
from hybridopt.policy.routes import Ready

from .trainer_batches import makes_batches
from .trainer_placed import check_not_replicated, check_placed
from .transformers import own_options

__all__ = ["check", "check_arguments", "check_assignment", "check_options"]

# Arguments that choose and set the Trainer's own optimizer, which is not made here.
IGNORED = ("optim", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon")
DETACHED = ("cispo", "vespo", "dft")  # losses of TRL that weigh their terms by probabilities without their gradients


def check(trainer: Trainer, optimizer: HybridOptimizer | None) -> None:
    """Raise HybridOptError for settings of a trainer under which its optimizer would not do what was asked.

    Args:
        trainer: a Trainer with the HybridTrainerMixin.
        optimizer: the one that it is to use; None: an optimizer that is not of this library.
    """
    check_placed(trainer)
    check_not_replicated(trainer)
    probing = optimizer if optimizer is not None and optimizer.probes_needed else None
    if trainer.assignment is not None and (probing is None or not probing.gradients_needed):
        lacks = "probes" if probing is None else "gradients"
        raise HybridOptError(
            f"assignment splits rows between gradients and probes, and the policy takes no {lacks}; leave assignment "
            "out, or take policy='addax'"
        )
    if probing is not None:
        why = next((why for found, why in _obstacles(trainer, probing) if found), None)
        if why is not None:
            raise HybridOptError(f"the policy measures losses at shifted weights, and {why}")


def check_arguments(args: TrainingArguments) -> None:
    """Raise HybridOptError for arguments that are about the Trainer's own optimizer, in whose place a policy trains.

    args: of a trainer that was given no optimizer, nor its class.
    """
    usual = {field.name: field.default for field in fields(args)}
    given = args.to_dict()  # plain values
    for key in IGNORED:
        if given[key] != usual[key]:
            raise HybridOptError(
                f"{key}={given[key]!r} is about the Trainer's own optimizer, and a policy trains in its place: leave "
                "it out, and choose by policy=... and policy_options={...} (`hybridopt policies` lists them); for the "
                "Trainer's own optimizer take the Trainer without HybridTrainerMixin"
            )


def check_assignment(kind: type) -> None:
    """Raise HybridOptError where rows are not what is trained on, so that splitting them would do nothing sensible.

    kind: the trainer's class.
    """
    if makes_batches(kind):
        raise HybridOptError(
            f"assignment splits the rows of a data set by length, and {kind.__name__} trains on what it makes of them "
            "(completions it generates); leave assignment out: probe and gradient are then taken on the same batch"
        )


def check_options(init: Callable, policy: Ready, given: Mapping[str, Any]) -> None:
    """Raise HybridOptError for options of the policy or of its optimizer among those of the Trainer.

    Args:
        init: the Trainer's own constructor.
        policy: says which options it has.
        given: what that constructor is to be called with.
    """
    known = inspect.signature(init).parameters
    for key, value in given.items():
        for place, names in (("policy_options", policy.options()), ("optimizer_options", own_options())):
            if key not in known and key in names:
                raise HybridOptError(f"{key}={value!r} is none of the Trainer's; give {place}={{{key!r}: {value!r}}}")


def _obstacles(trainer: Trainer, optimizer: HybridOptimizer) -> Iterator[tuple[bool | float, str]]:
    """Yield (is it so?, why probes would go wrong) of every setting that stands in the way of probes."""
    args = trainer.args
    yield trainer.is_deepspeed_enabled, "DeepSpeed keeps the weights to itself; train without it"
    alone = f"{args.n_gpu} GPUs in one process would hold unshifted copies; start one process for each (torchrun), or "
    yield args.n_gpu > 1, alone + "set CUDA_VISIBLE_DEVICES to one of them"
    yield args.fp16, "fp16=True scales losses and rounds their differences away; take bf16=True"
    yield from _stopped_gradients(vars(args))
    unclipped = release_class(optimizer.release).frees_gradients or not optimizer.gradients_needed
    yield (
        args.max_grad_norm and unclipped,
        (
            f"max_grad_norm={args.max_grad_norm} finds no gradients to clip; give TrainingArguments(max_grad_norm=0), "
            "and limit the projected gradient, if need be, by the policy's clip"
        ),
    )


def _stopped_gradients(settings: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Yield as `_obstacles` does of TRL's losses whose slope is not that of their gradient, because of detach()."""
    given = settings.get("loss_type")
    for kind in [given] if isinstance(given, str) else given or ():
        yield kind in DETACHED, f"the slope of loss_type={kind!r} is not its gradient (detach()); take another one"
    weighted = settings.get("use_weighting", False)
    yield weighted, "with use_weighting=True the slope of the loss is not its gradient (detach()); leave it out"
    if given is not None and "num_iterations" in settings:  # GRPO; RLOO keeps the old probabilities always
        every = settings["steps_per_generation"] * settings["num_iterations"]
        micro = settings["gradient_accumulation_steps"]
        corrected = settings.get("use_vllm") and settings.get("vllm_importance_sampling_correction")
        yield (
            micro % every == 0 and not corrected,
            (
                "GRPO's is the same at all weights where completions serve one step only, as it divides each "
                "probability by itself: give GRPOConfig(num_iterations=2), or "
                f"steps_per_generation={2 * micro} (twice gradient_accumulation_steps)"
            ),
        )
