"""What a param group may have of its own, a learning rate and a weight decay, and which values these may have."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor, strided

from ...core.errors import HybridOptError, check_number, shown
from ...policy.other_names import names_here

__all__ = ["check_numbers", "check_options", "rates"]

LARGEST = 1e6  # of a learning rate or weight decay: beyond, a few steps leave the range of float32
NUMBERS = ("lr", "weight_decay")  # that a group may have of its own


def check_options(group: Mapping, options: Iterable[str]) -> None:
    """Raise HybridOptError for what has no effect in a param group.

    Args:
        group: as it was given.
        options: of the policy.
    """
    own = {"policy", "betas", "eps", "momentum", "seed", *options}
    for key, value in group.items():
        if key in own:
            more = "; multiply the group's lr by it" if key == "lr_scale" else ""
            raise HybridOptError(
                f"{key}={shown(value)} in a param group has no effect: groups take lr and weight_decay, everything "
                f"else belongs to the policy; give it to the optimizer, or write a Policy with routes{more}"
            )
        if here := _meant(key):
            raise HybridOptError(
                f"{key}={shown(value)} in a param group has no effect; did you mean {here}={shown(value)}?"
            )


def check_numbers(group: Mapping[str, Any], owner: str = "HybridOptimizer") -> None:
    """Raise HybridOptError, naming `owner`, for a learning rate or weight decay that is none."""
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise HybridOptError(f"{owner}: lr must be a number or a tensor of one element, got {tuple(lr.shape)}")
        if not lr.is_floating_point() or lr.layout != strided or lr.is_meta:
            raise HybridOptError(f"{owner}: lr={shown(lr)} is not allowed; give a dense tensor of a float dtype")
        lr = lr.item()
    check_number(owner, "lr", lr, 0, LARGEST)
    check_number(owner, "weight_decay", group["weight_decay"], 0, LARGEST)


def _meant(key: str) -> str | None:
    """Return the number of a group that a key was meant to be, misspelled or by another tool's name."""
    if not isinstance(key, str) or any(name in key for name in NUMBERS):
        return None  # such as "initial_lr" of schedulers
    called = next((name for name in names_here(key) if name in NUMBERS), None)
    return called or next(iter(get_close_matches(key, NUMBERS, 1, 0.85)), None)


def rates(group: dict) -> tuple[float | Tensor, float | Tensor]:
    """Return the learning rate, of shape [] if it is a tensor, and the decay, 1 - lr * weight decay."""
    lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else group["lr"]
    return lr, 1 - lr * group["weight_decay"]
