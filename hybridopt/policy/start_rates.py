"""The learning rate where none is given: the one that the policy is started from, for what is trained."""

from collections.abc import Iterable
from statistics import median_low

from torch import Tensor

from ..core.contracts import USES, Rate, Ready
from ..core.errors import HybridOptError, check_choice, check_number
from ..model.roles import Param
from .routes import Route

__all__ = ["learning_rate", "start_rate", "use_of", "width_of"]

UNKNOWN = Rate(1e-3, "as nothing is known of own routes")
WORDS = {"pretrain": "pre-training", "full": "all weights", "lora": "adapters"}


def learning_rate(policy: Ready[Route], lr: float | Tensor | str | None, params: Iterable[Param]) -> float | Tensor:
    """Return the learning rate asked for, or the policy's own, or the one that it is started from.

    Args:
        policy: that trains.
        lr: a rate, one of USES, or None for the use that fits the parameters: "lora" with adapters, or else "full".
        params: what is known of the parameters; looked at only where they count.

    Raises:
        HybridOptError: the policy's options say another rate, or nothing is known for this use.
    """
    own = policy.lr
    if own is not None:
        if lr is not None and (isinstance(lr, str) or float(lr) != own):
            raise HybridOptError(f"lr={lr!r}, but zo_lr and fo_lr of the policy say {own!r}; leave one of them out")
        return own if lr is None else lr
    if lr is not None and not isinstance(lr, str):
        return lr
    if lr is not None:
        _check_use(lr)
        if policy.start_from is None:
            raise HybridOptError(f"lr={lr!r}: nothing is known of own routes; give a number")
    known = list(params)
    return start_rate(policy, lr or use_of(known), width_of(known))[0]


def start_rate(policy: Ready[Route], use: str, width: int | None = None) -> tuple[float, str]:
    """Return a learning rate to start from, and where it comes from, in words.

    Args:
        policy: that trains.
        use: one of USES.
        width: of the model (`width_of`); None: it is not known.

    Raises:
        HybridOptError: nothing is known of this policy in this use; of own routes 1e-3 is said in every use.
    """
    if policy.lr is not None:
        return policy.lr, "as zo_lr and fo_lr of the policy say"
    rate = UNKNOWN if policy.start_from is None else policy.start_from.of(use)
    value = rate.at(width)
    narrower = "" if value == rate.value else f"; {rate.value:g} at width {rate.width}, in inverse proportion to it"
    return value, f"for {WORDS[use]}, {rate.source}{narrower}"


def _check_use(lr: str) -> None:
    """Raise HybridOptError unless `lr` is one of USES; a number in quotes is told apart from other words."""
    try:
        float(lr)
    except ValueError:
        check_choice("", "lr", lr, USES)
    else:
        check_number("", "lr", lr, 0)


def use_of(params: Iterable[Param]) -> str:
    """Return "lora" where adapters are trained, or else "full"."""
    return "lora" if any(p.role == "adapter" and p.trainable for p in params) else "full"


def width_of(params: Iterable[Param]) -> int | None:
    """Return the width of a model's hidden layers: the usual smaller side of linear weights; None without any."""
    sides = [min(p.shape[-2:]) for p in params if p.role in ("linear", "quantized") and len(p.shape) > 1]
    return median_low(sides) if sides else None
