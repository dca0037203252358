"""Where inputs of trained linear layers cannot be kept in part, said before anything is changed."""

from collections.abc import Iterable, Mapping

from torch import nn

from ...core.contracts import HowTrained
from ...core.errors import HybridOptError
from ..containers import original

__all__ = ["check_layers", "check_not_repeated", "check_one_device", "check_trains", "repeats"]

REPLICATED = (
    "activations=... is not allowed with DataParallel, whose copies of a layer are not sampled on their own devices; "
    "leave DataParallel out (CUDA_VISIBLE_DEVICES=0, or a process a GPU), or activations"
)


def repeats(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a model that know transformers' checkpointing, whether it is on or off."""
    return [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]


def check_not_repeated(modules: Iterable[nn.Module]) -> None:
    """Raise HybridOptError if one of these modules is checkpointed: computed again in the backward pass."""
    if any(getattr(m, "gradient_checkpointing", False) is True for m in modules):
        raise HybridOptError(
            "activations=... is not allowed with gradient checkpointing: layers that are computed again would draw "
            "other rows, and keep nothing anyway; call model.gradient_checkpointing_disable(), or leave "
            "activations out"
        )


def check_one_device(model: nn.Module) -> None:
    """Raise HybridOptError for a model within DataParallel."""
    if isinstance(original(model), nn.DataParallel):
        raise HybridOptError(REPLICATED)


def check_trains(trained: Mapping[str, HowTrained]) -> None:
    """Raise HybridOptError if no parameter takes gradients from a backward pass.

    trained: how parameters are trained, by name.
    """
    if not any(how.source.backward for how in trained.values()):
        raise HybridOptError(
            "activations=... is not allowed with a policy that trains by losses alone: without a backward pass "
            "nothing is kept; leave activations out, or take a policy with gradients (policy='frugal')"
        )


def check_layers(model: nn.Module, names: Iterable[str]) -> None:
    """Raise HybridOptError if no layer of a model is concerned.

    Args:
        model: as it will be trained.
        names: of its trained linear layers but the output layer.
    """
    if not list(names):
        raise HybridOptError(
            f"activations=... is not allowed: {type(model).__name__} has no linear layer that is trained by "
            "gradients, beside its output layer; leave activations out"
        )
