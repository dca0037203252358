"""What adds noise to a parameter, and the time it takes."""

from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor

from hybridopt.core.numerics.directions import KINDS, Direction, combine_

from ..shared.timing import seconds

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
EPS = 1e-3


def calls(p: Tensor, z: Tensor) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name; every one adds noise to `p`, one of them by way of `z`."""
    generator = torch.Generator(p.device).manual_seed(0)
    found: dict[str, Callable[[], object]] = {
        "normal_ + add_": lambda: p.add_(z.normal_(generator=generator), alpha=EPS)
    }
    for kind in KINDS:
        for compiled in (False, True):
            name = f"{kind}, {'compiled' if compiled else 'eager'}"
            found[name] = partial(combine_, p, p, [(EPS, Direction(1, 0, 0, kind))], compile=compiled)
    sign = Direction(1, 0)
    return found | {"rademacher, decay, compiled": lambda: combine_(p, p, [(EPS, sign)], decay=0.999, compile=True)}


def measure(call: Callable[[], object], add: Callable[[], object], rounds: int, device: str) -> dict:
    """Time a call between calls of another; the first call, which compiles, is left out.

    Args:
        call: what is measured.
        add: what it is compared with.
        rounds: how many calls.
        device: "cpu" or "cuda".

    Returns:
        seconds [rounds] of the call, add_seconds [rounds + 1] of the other, and the median ratio.
    """
    call()
    yard, times = [seconds(add, device)], []
    for _ in range(rounds):
        times.append(seconds(call, device))
        yard.append(seconds(add, device))
    ratios = [2 * one / (before + after) for one, before, after in zip(times, yard, yard[1:], strict=False)]
    return {"seconds": times, "add_seconds": yard, "ratio": median(ratios)}


def outcome(call: Callable[[], object], add: Callable[[], object], rounds: int, device: str) -> dict:
    """Return what `measure` says, or why it could not; the other calls go on.

    Args:
        call: what is measured.
        add: what it is compared with.
        rounds: how many calls.
        device: "cpu" or "cuda".
    """
    try:
        return measure(call, add, rounds, device)
    except Exception as error:  # of a compiler, or too little memory: it is the result
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
