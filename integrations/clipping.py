"""Refuse a loop's own call for clipping where all gradients are used already, instead of doing nothing."""

import math
from collections.abc import Iterable
from functools import wraps
from inspect import signature
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from hybridopt.core.errors import HybridOptError
from hybridopt.optimizer.conflicts import CLIPS_ITSELF

__all__ = ["refuse_clipping"]


def refuse_clipping(owner: object, name: str, groups: list[dict[str, Any]]) -> None:
    """Let the method `name` of an object raise HybridOptError where gradients that it is to clip are freed already.

    Args:
        owner: what a loop asks for clipping; only this object changes.
        name: of a method whose first argument is parameters or an optimizer, and the second the limit.
        groups: the `param_groups` of the optimizer that frees gradients.
    """
    clip = getattr(owner, name)

    @wraps(clip)
    def refusing(what: Optimizer | Iterable[Tensor], *limits: Any, **named: Any) -> Any:
        what = what if isinstance(what, Optimizer) else list(what)
        _, limit, *_ = [*signature(clip).bind(what, *limits, **named).arguments.values(), 0]
        if 0 < limit < math.inf and _are_freed(what, groups):
            raise HybridOptError(
                f"{name}(..., {limit}) comes too late: release='fused' has used each gradient in the backward pass, "
                f"and this step went unclipped. Leave the call out, and {CLIPS_ITSELF}; or run the backward pass "
                "in `with optimizer.hold():`, which keeps gradients for it"
            )
        return clip(what, *limits, **named)

    if name not in vars(owner):
        setattr(owner, name, refusing)


def _are_freed(what: Optimizer | list[Tensor], groups: list[dict[str, Any]]) -> bool:
    """Return whether parameters of the groups are among those to clip, and none of the groups has a gradient."""
    asked = [p for group in what.param_groups for p in group["params"]] if isinstance(what, Optimizer) else what
    ours = {id(p): p for group in groups for p in group["params"]}
    return any(id(p) in ours for p in asked) and all(p.grad is None for p in ours.values())
