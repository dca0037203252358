"""What to do with the learning rate when the batch changes."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..core.contracts import Ready
from ..core.errors import HybridOptError, check_number, shown
from ..model.roles import Param
from .routes import Route, assign, read_policy
from .treatment import Treatment

__all__ = ["follows_size", "gradient_noise", "lr_for_batch", "rounded_lr", "told_of_noise"]

MOST = 1e12  # examples or tokens


def lr_for_batch(
    lr: float,
    batch: float,
    new_batch: float,
    policy: str | Ready[Route] = "frugal",
    noise: float | None = None,
    **options: Any,
) -> float:
    """Return the learning rate for another batch, where `lr` is right for `batch`.

    Rules whose steps grow with the gradient (`sgd`, `lomo`): lr ~ 1 / (1 + noise / batch), for small batches in
    proportion to them. All others, whose steps have a size of their own: lr ~ 1 / (sqrt(noise / batch) + sqrt(batch /
    noise)), for small batches as their root, with a peak at `noise`, and falling again beyond it. The rules of linear
    weights count. A start for a search, not its end: the noise grows while training goes on, and so does the peak.

    Args:
        lr: a good learning rate at `batch`.
        batch: examples or tokens of a step.
        new_batch: those of a step with the rate that is asked for, in the same unit.
        policy: a name, or what else `wrap` takes.
        noise: the gradient's noise scale in that unit, as `gradient_noise` finds it; None: far above both batches.
        **options: of the policy that is named.

    Raises:
        HybridOptError: for numbers out of range, and for policies that take no gradients.

    Source: Li et al. 2024 ("surge", arXiv 2405.14578); McCandlish et al. 2018 (arXiv 1812.06162), section 2.
    """
    check_number("lr_for_batch", "lr", lr, 0)
    for name, value in {"batch": batch, "new_batch": new_batch, "noise": 1 if noise is None else noise}.items():
        check_number("lr_for_batch", name, value, 1e-9, MOST)
    far = noise is None
    scale = 1.0 if noise is None else float(noise)
    old, new = float(batch) / scale, float(new_batch) / scale
    if follows_size(read_policy(policy, options)):
        return lr * (new / old if far else (1 + 1 / old) / (1 + 1 / new))
    root = math.sqrt(new / old)
    return lr * (root if far else root * (1 + old) / (1 + new))


def rounded_lr(lr: float, batch: float, new_batch: float, policy: Ready[Route]) -> float:
    """Return `lr_for_batch` with three digits, as nobody knows more of them.

    Args:
        lr: a good learning rate at `batch`.
        batch: examples or tokens of a step.
        new_batch: those of a step with the rate that is asked for.
        policy: that trains.
    """
    return float(f"{lr_for_batch(lr, batch, new_batch, policy):.3g}")


def follows_size(policy: Ready[Route]) -> bool:
    """Return whether steps of linear weights are as long as the gradient says, not as the rule does.

    Raises:
        HybridOptError: they are not trained by gradients of backward passes.
    """
    rules = [rule for use in _linear(policy) if use.source.backward for rule in use.acting if not rule.idle]
    if not rules:
        raise HybridOptError(
            "this policy takes no gradients from backward passes; nothing is known of its rates and batches"
        )
    return all(rule.proportional for rule in rules)


def told_of_noise(lr: float, batch: float, noise: float, policy: Ready[Route]) -> str:
    """Return what a measured noise scale says of the batch and of the learning rate, in words.

    Args:
        lr: that was trained with.
        batch: examples of a step.
        noise: the gradient's noise scale, in examples.
        policy: that was trained by.

    Raises:
        HybridOptError: it takes no gradients from backward passes.
    """
    twice = lr_for_batch(lr, batch, 2 * batch, policy, noise)
    half = lr_for_batch(lr, batch, batch / 2, policy, noise)
    if batch < noise:
        where = f"above the {batch:g} of a step, so that larger batches save steps"
    else:
        where = f"below the {batch:g} of a step, so that larger batches save little"
    return (
        f"The gradient's noise scale is about {noise:.2g} examples, {where}. Where lr={lr:g} is right, try "
        f"{twice:.2g} with twice the batch, and {half:.2g} with half of it"
    )


def _linear(policy: Ready[Route]) -> list[Treatment]:
    """Return how linear weights are trained, or where they are frozen adapters; nothing where both are."""
    for role in ("linear", "adapter"):
        (use,) = assign(policy, [Param("layers.0.weight", role, (8, 8), torch.float32)]).values()
        if use is not None:
            return [use]
    return []


def gradient_noise(norms: Mapping[float, float]) -> float:
    """Return the noise scale of gradients, in the unit of the batches: trace of their covariance over |G|^2.

    At batches far below it gradients are mostly noise, far above it mostly signal. Squared norms are noisy themselves:
    take means over many steps at almost the same weights, such as those of micro-batches and of their sums.

    Args:
        norms: the mean squared norm of a batch's mean gradient, by the batch; of two batches or more.

    Raises:
        HybridOptError: for less than two batches, and where norms do not fall with the batch, or to nothing.

    Source: McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1: |g|^2 = |G|^2 + S / batch, by least squares.
    """
    if len(norms) < 2:
        raise HybridOptError(f"norms={shown(dict(norms))} is not allowed; give those of two batches or more")
    for batch, norm in norms.items():
        check_number("gradient_noise", "batch", batch, 1e-9, MOST)
        check_number("gradient_noise", "norm", norm, 0)
    inverse, squares = [1 / batch for batch in norms], list(norms.values())
    middle, mean = (sum(x) / len(norms) for x in (inverse, squares))
    spread = sum((x - middle) ** 2 for x in inverse)
    slope = sum((x - middle) * (y - mean) for x, y in zip(inverse, squares, strict=True)) / spread
    signal = mean - slope * middle
    if slope <= 0 or signal <= 0:
        raise HybridOptError(
            f"squared norms {shown(dict(norms))} do not fall from a small batch to a large one as noise makes them, "
            "or would fall below zero; take means over more steps, or batches further apart"
        )
    return slope / signal
