"""What the check of a gradient, before anything is changed, is told, and what it finds."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.contracts import Store
from ..policy.job import Job

__all__ = ["GradientCheck", "UncheckedGradient"]


@dataclass(frozen=True, eq=False)
class UncheckedGradient:
    """A gradient that an update is about to be made by.

    Args:
        name: of the parameter.
        param: the weight.
        grad: its gradient.
        job: what is done to the parameter.
        store: writes the weight; None where none can.
        alone: is it all that the update is made by, here and as it is?
    """

    name: str
    param: Tensor
    grad: Tensor
    job: Job
    store: Store | None
    alone: bool


@dataclass(frozen=True, eq=False)
class GradientCheck:
    """What is known of a gradient.

    Args:
        finite: has it neither NaN nor infinity?
        layout: of the kernel that has made round 0 of the rule's looks; None where only NaN was looked for.
        numbers: what that has found, for the same kernel, float32 [n].
    """

    finite: bool
    layout: Any = None
    numbers: Tensor | None = None
