"""What is compared: bits against the package's own kernel, bytes, rounding, small gradients, gradients that end."""

import torch
from torch import Tensor

from hybridopt.core.numerics import split_floats

from . import formulas, interpreted
from .held import WAYS, Masters

SIZES = (1e-2, 1e-4, 1e-6, 1e-8)  # of gradients
COUNT = 8192  # elements of a parameter


def weights(count: int, seed: int = 0) -> Tensor:
    """Return bfloat16 weights of the size of a language model's."""
    return (torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.02).bfloat16()


def bits(steps: int = 30, count: int = 2070) -> dict:
    """Return of how many elements package and formulas differ after steps whose gradients span nine decades.

    Args:
        steps: how many.
        count: elements of the parameter, no whole number of groups.
    """
    if lacking := interpreted.missing():
        return {"missing": lacking}
    random = torch.Generator().manual_seed(1)
    kernel, own = (formulas.State.of(weights(count)) for _ in range(2))
    for step in range(steps):
        grad = (torch.randn(count, generator=random) * 10.0 ** -(step % 10)).bfloat16()
        for state, take in ((kernel, interpreted.step), (own, formulas.step)):
            take(state, grad, 1e-3)
    pairs = zip(kernel.tensors().items(), own.tensors().values(), strict=True)
    differ = {name: int((x != y).sum()) for (name, x), y in pairs}
    numbers = sum(value.numel() for value in own.tensors().values())
    return {"steps": steps, "numbers": numbers, "differ": differ, "refusal": interpreted.refusal()}


def places() -> dict[str, float]:
    """Return the largest error of a weight of 24 bits in last places of bfloat16, by package."""
    x = torch.randn(2**20, generator=torch.Generator().manual_seed(2))
    high, low = split_floats.parted(x)
    near = x.bfloat16()
    found = {"flashoptim": (near, formulas.joined(near, formulas.errors_of(x, near)))}
    found["hybridopt"] = (high, split_floats.joined(high, low))
    return {name: largest_error(x, *parts) for name, parts in found.items()}


def largest_error(x: Tensor, high: Tensor, back: Tensor) -> float:
    """Return the largest error in last places.

    Args:
        x: float32.
        high: the bfloat16 beside it.
        back: what is read back.
    """
    return float(torch.ldexp((back - x).abs(), -formulas.half_place(high) - 1).max())


def small(name: str, size: float, steps: int = 50) -> float:
    """Return how far a weight is from where float32 leads it, as a share of the way: root mean squares.

    Args:
        name: of WAYS.
        size: of the gradients, whose mean is as large as their spread.
        steps: how many, at a rate of 1e-3.
    """
    random, start = torch.Generator().manual_seed(3), weights(COUNT)
    exact, held = Masters(start.clone()), WAYS[name](start.clone())
    mean = torch.randn(COUNT, generator=random)
    for _ in range(steps):
        grad = ((mean + torch.randn(COUNT, generator=random)) * size).bfloat16()
        for one in (exact, held):
            one.step(grad.clone(), 1e-3)
    return float((held.weight() - exact.weight()).norm() / (exact.weight() - start.float()).norm())


def ended(name: str, before: int = 50, after: int = 2000) -> float:
    """Return the second moment's root where gradients have ended, as a multiple of float32's; the mean over elements.

    Args:
        name: of WAYS.
        before: steps in which all elements have gradients.
        after: steps in which every second one has none any more.
    """
    random, start = torch.Generator().manual_seed(4), weights(COUNT)
    exact, held = Masters(start.clone()), WAYS[name](start.clone())
    for step in range(before + after):
        grad = torch.randn(COUNT, generator=random)
        if step >= before:
            grad[::2] = 0
        for one in (exact, held):
            one.step(grad.bfloat16(), 1e-3)
    ratio = (held.second()[::2] / exact.second()[::2]).sqrt()
    return float(ratio.mean())


def bytes_each(name: str, count: int = 2**20) -> float:
    """Return bytes of weight and state for each element of a large parameter; gradients come on top."""
    held = WAYS[name](weights(count))
    held.step(torch.zeros(count, dtype=torch.bfloat16), 1e-3)
    return held.bytes() / count
