"""Where "auto" lets layers rest, as `load` tells it from the memory that there is."""

import torch
from torch import nn

from ...core.budget import Budget
from ...core.errors import HybridOptError
from ...core.host import Host
from ...model.placement.auto_placement import LayerBytes, settled
from ...model.placement.placement import Placement
from ...policy.plan import Plan
from ..bytes.static import weights
from ..request import Request
from .offloaded_tensors import resting

__all__ = ["settle"]


def settle(model: nn.Module, request: Request, plan: Plan, room: Budget | None, host: Host | None) -> Placement | None:
    """Return the placement that `load` would choose; None where everything stays on the device.

    Args:
        model: on any device.
        request: whose placement is "auto".
        plan: the policy, resolved on the model's parameters.
        room: of the device.
        host: whose memory has to be known.

    Raises:
        HybridOptError: the memory of one of both is not known, or the weights fit in no way.
    """
    assert request.placement is not None
    if room is None or host is None or host.memory is None:
        name = "--gpu (memory=)" if room is None else "--host (host_memory=)"
        raise HybridOptError(f"placement='auto' is chosen by the memory that there is; give {name}, too", "plan")
    cuda = request.device == "cuda"
    away = resting(model, request.placement.but(base="host" if cuda else "disk", resident=0), plan, cuda)
    rest = weights(model, away.tensors)
    found = LayerBytes(
        away.sizes,
        rest.weights + rest.quantization,
        away.on_host,
        disk=request.quantization is None or request.placement.cache is not None,
    )
    device = torch.device("cuda" if cuda else "cpu")
    placement = settled(request.placement, found, device, room, host.memory)
    return None if placement.base == "device" else placement
