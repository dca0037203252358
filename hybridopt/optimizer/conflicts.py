"""Refuse what changes gradients after they are complete, where a release uses each as soon as it is."""

import gc
from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed

from ..core.contracts import Named, ReleasedParameters
from ..core.errors import HybridOptError
from ..core.registry import every
from .parameters import Parameters
from .releases import release_class

__all__ = [
    "CLIPS_ITSELF",
    "accumulating",
    "check",
    "check_clipping",
    "check_loop",
    "check_probed",
    "check_scaler",
    "check_unscaled",
]

CLIPS_ITSELF = (
    "let the optimizer clip: clip=1.0 with clip_mode='previous' (by the norm of the step before) or 'tensor' (each by "
    "itself)"
)
CONTAINERS = {
    "FullyShardedDataParallel": "it reduces gradients after they are complete; take FSDP2 (fully_shard)",
}


def check(work: Iterable[Named], release: str, containers: bool) -> None:
    """Raise HybridOptError if something still has to be done to gradients that are complete.

    Args:
        work: the parameters of the optimizer.
        release: the name of its release, for the error.
        containers: also look for FSDP1 modules that hold the parameters, among all objects of the process.
    """
    if any(launcher.scaling() for launcher in every("launchers")):
        raise HybridOptError(
            f"release={release!r} cannot undo the loss scaling of fp16 (the loop's mixed precision): take bf16"
        )
    if containers and distributed.is_available() and distributed.is_initialized():
        _check_containers({id(p): n for n, p in work}, release)


def check_loop(parameters: ReleasedParameters, release: str, clips: bool) -> None:
    """Find out who runs the loop; HybridOptError if it is to do something to gradients that are complete.

    Args:
        parameters: of the optimizer.
        release: the name of its release, for the error.
        clips: does the optimizer clip gradients itself, whatever the loop does?
    """
    for launcher in every("launchers"):
        launcher.attend(parameters.groups())
    check(parameters.params(), release, containers=True)
    if not clips:
        check_clipping(parameters.groups(), release)


def check_clipping(groups: list[dict[str, Any]], release: str) -> None:
    """Raise HybridOptError if the loop that runs an optimizer is to clip gradients, of which it will find none.

    Args:
        groups: the optimizer's.
        release: the name of its release, for the error.
    """
    setting = next((found for launcher in every("launchers") if (found := launcher.clipping(groups))), None)
    if setting is not None:
        raise HybridOptError(
            f"release={release!r} uses each gradient before the loop can clip by {setting}, which would do nothing; "
            f"set that to 0, and {CLIPS_ITSELF}; clip=float('inf') says that nothing is to be clipped"
        )


def check_scaler(optimizer: Any) -> None:
    """Raise HybridOptError if torch.amp.GradScaler asks a HybridOptimizer for a step and has scaled what it used."""
    if "found_inf" in vars(optimizer) and release_class(optimizer.release).frees_gradients:
        del optimizer.found_inf, optimizer.grad_scale
        raise HybridOptError(
            f"release={optimizer.release!r} has updated the weights by gradients that torch.amp.GradScaler had "
            "scaled; load them again, and take bf16, which needs no scaler, or release='accumulate'"
        )


def check_unscaled(parameters: Parameters, arrived: bool) -> None:
    """Raise HybridOptError where torch.amp.GradScaler, which asks for this, would find no gradient to unscale.

    Args:
        parameters: of the optimizer.
        arrived: whether there were gradients, of blocks that are not in turn.
    """
    if arrived and not parameters.waiting():
        name = next(one.name for one in parameters.windows.all() if one.backward and not one.idle)
        raise HybridOptError(
            f"torch.amp.GradScaler finds no gradient to unscale, as none has reached {name!r}, whose turn it is, and "
            "those of other blocks were dropped: set requires_grad=False for blocks that the data does not reach, or "
            "take bf16, which needs no scaler"
        )


def check_probed(groups: list[dict[str, Any]]) -> None:
    """Raise HybridOptError if a loop that only knows backward passes runs an optimizer whose policy takes none.

    groups: the optimizer's.
    """
    loop = next((found for launcher in every("launchers") if (found := launcher.backward_only(groups))), None)
    if loop is not None:
        raise HybridOptError(
            f"{loop} calls loss.backward(), and this policy takes no gradients: it goes by losses at shifted weights, "
            f"which that loop never asks for. Take HybridTrainer, or class Mine(HybridTrainerMixin, {loop}) for other "
            "trainers, in its place; or a policy that takes gradients"
        )


def accumulating() -> bool:
    """Return whether a launcher says that more micro-batches follow before the step."""
    for launcher in every("launchers"):  # asked for every gradient: a generator would be one more call each
        if launcher.accumulating():
            return True
    return False


def _check_containers(names, release):
    named = [x for x in gc.get_objects() if type(x).__name__ in CONTAINERS]  # few of all objects
    for made in [x for x in named if issubclass(type(x), torch.nn.Module)]:
        cure = CONTAINERS.get(type(made).__name__)
        name = cure and next((names[id(p)] for p in made.parameters() if id(p) in names), None)
        if name:
            raise HybridOptError(
                f"parameter {name!r} lies in a {type(made).__name__}, and release={release!r} would update it too "
                f"early: {cure}, or take release='accumulate'"
            )
