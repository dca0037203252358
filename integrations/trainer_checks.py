"""Refuse settings of a transformers `Trainer` under which probes would go wrong."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from transformers import Trainer

from hybridopt.core.errors import HybridOptError
from hybridopt.optimizer.optimizer import HybridOptimizer
from hybridopt.optimizer.releases import release_class
from hybridopt.policy.routes import Ready

from .transformers import own_options

__all__ = ["check", "check_options"]


def check(trainer: Trainer, optimizer: HybridOptimizer | None) -> None:
    """Raise HybridOptError for settings of a trainer under which its optimizer would not do what was asked.

    Args:
        trainer: a Trainer with the HybridTrainerMixin.
        optimizer: the one that it is to use; None: an optimizer that is not of this library.
    """
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
    yield trainer.is_fsdp_enabled, "FSDP holds but a part of each weight; train without it, on whole copies"
    yield (
        args.world_size > 1 and not optimizer.gradients_needed,
        (
            f"{args.world_size} processes have no gradients to share, so DDP refuses the model; start one, or write "
            "the loop yourself: optimizer.probe() takes the mean over processes"
        ),
    )
    alone = f"{args.n_gpu} GPUs in one process would hold unshifted copies; start one process for each (torchrun), or "
    yield args.n_gpu > 1, alone + "set CUDA_VISIBLE_DEVICES to one of them"
    yield args.fp16, "fp16=True scales losses and rounds their differences away; take bf16=True"
    unclipped = release_class(optimizer.release).frees_gradients or not optimizer.gradients_needed
    yield (
        args.max_grad_norm and unclipped,
        (
            f"max_grad_norm={args.max_grad_norm} finds no gradients to clip; give TrainingArguments(max_grad_norm=0), "
            "and limit the projected gradient, if need be, by the policy's clip"
        ),
    )
