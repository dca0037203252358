"""What gradients may not go through when each is used as soon as it is complete."""

import gc
from collections.abc import Iterable

import torch
from torch import distributed

from ...core.errors import HybridOptError
from ...core.registry import every
from ..parameters import Work

__all__ = ["accumulating", "check", "check_scaler"]

CONTAINERS = {
    "DistributedDataParallel": "it averages gradients after they are complete; shard the model by FSDP2 (fully_shard)",
    "FullyShardedDataParallel": "it reduces gradients after they are complete; take FSDP2 (fully_shard)",
}


def check(work: Iterable[Work], containers: bool) -> None:
    """Raise HybridOptError if something still has to be done to gradients that are complete.

    containers: look for those that hold the parameters, too, which takes a while.
    """
    if any(launcher.scaling() for launcher in every("launchers")):
        raise HybridOptError(
            "release='fused' cannot undo the loss scaling of fp16 (accelerate, mixed_precision='fp16'): take bf16"
        )
    if containers and distributed.is_available() and distributed.is_initialized():
        _check_containers({id(p): n for n, p in work})


def check_scaler(optimizer: torch.optim.Optimizer) -> None:
    """Raise HybridOptError if it is torch.amp.GradScaler that asks for a step, and gradients were used already."""
    if optimizer.release == "fused" and "found_inf" in vars(optimizer):
        del optimizer.found_inf, optimizer.grad_scale
        raise HybridOptError(
            "release='fused' has updated the weights by gradients that torch.amp.GradScaler had scaled; load them "
            "again, and take bf16, which needs no scaler, or release='accumulate'"
        )


def accumulating() -> bool:
    """Do more micro-batches follow before the step?"""
    return any(launcher.accumulating() for launcher in every("launchers"))


def _check_containers(names):
    for made in [x for x in gc.get_objects() if issubclass(type(x), torch.nn.Module)]:
        cure = CONTAINERS.get(type(made).__name__)
        name = cure and next((names[id(p)] for p in made.parameters() if id(p) in names), None)
        if name:
            raise HybridOptError(
                f"parameter {name!r} lies in a {type(made).__name__}, and release='fused' would update it too "
                f"early: {cure}, or take release='accumulate'"
            )
