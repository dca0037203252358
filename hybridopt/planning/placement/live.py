"""What a step of a live model moves whose layers rest elsewhere."""

from typing import Any

from torch import nn

from ...core.errors import HybridOptError
from ...model.placement.placed import placed
from ...policy.plan import Plan
from ..request import Request
from .offloaded_tensors import Resting

__all__ = ["moved_live"]


def moved_live(model: nn.Module, policy: Any, plan: Plan) -> dict[str, int] | None:
    """Return the bytes that a step reads, copies and writes, by what is done; None: it cannot be trained so.

    Args:
        model: placed.
        policy: that it is trained by.
        plan: the policy, resolved on it.
    """
    there = placed(model)
    assert there is not None
    again = any(vars(module).get("gradient_checkpointing") for module in model.modules())
    request = Request(policy=policy, placement=there.placement, checkpointing=again)
    try:
        found = Resting(there.placement, there.units, [], plan, there.device.type != "cpu").carried(request)
    except HybridOptError:  # the plan trains what rests elsewhere: the optimizer says so
        return None
    return {"read": found.read, "copied to the device": found.bus, "written": found.written}
