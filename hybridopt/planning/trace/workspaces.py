"""What operations take while they run, where that is more than what they hand out."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ...core.contracts import Room
from ...core.registry import every

__all__ = ["mixed_room", "room_of"]

COMPARE = {f"aten::{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge")}  # they hand out a byte an element


def room_of(device: str | None) -> Callable[[Any], Room | None]:
    """Return what tells the bytes that an operation takes on a device, what it hands out among them.

    It is None for operations that never take more than that, and tells 0 where they do not. Not counted is what
    kernels of CPUs keep for each thread, whatever the size of a model: pieces of the factors of 16-bit products, a
    few hundred KiB.

    Args:
        device: "cuda" or "cpu"; None: nothing is told.
    """
    if device is None:
        return lambda _: None
    return cache(_on_cpu) if device == "cpu" else cache(_on_gpu)


def _on_gpu(function: Any) -> Room | None:
    return _named("cuda").get(str(function))


def _on_cpu(function: Any) -> Room | None:
    pointwise = isinstance(function, OpOverload) and torch.Tag.pointwise in function.tags
    return _named("cpu").get(str(function)) or (mixed_room(function) if pointwise else None)


@cache
def _named(device: str) -> Mapping[str, Room]:
    kernels = (s.kernels if device == "cuda" else s.cpu_kernels for s in every("schemes"))
    return {name: room for each in kernels for name, room in each.items()}


def mixed_room(function: OpOverload) -> Room:
    """Return what tells the bytes that an operation, element by element, takes on a CPU where dtypes differ.

    Every operand that is not of the dtype in which is computed is cast as a whole first, and so is the result of an
    operation in place (aten/src/ATen/TensorIterator.cpp, compute_types). GPUs cast element by element.

    Args:
        function: the operation.
    """
    name = function._schema.name
    first = name == "aten::where"  # its condition is no operand
    writes = function._schema.is_mutable

    def room(args: tuple[Any, ...], _: Mapping[str, Any]) -> int:
        operands = [x for x in args[first:] if isinstance(x, Tensor) and x.dim()]
        if len({x.dtype for x in operands}) < 2:
            return 0
        common = operands[0].dtype
        for x in operands[1:]:
            common = torch.promote_types(common, x.dtype)
        cast = sum(x.numel() for x in operands if x.dtype != common)
        if writes:
            return common.itemsize * (cast + operands[0].numel() * (operands[0].dtype != common))
        result = math.prod(torch.broadcast_shapes(*(x.shape for x in operands)))
        return common.itemsize * cast + result * (1 if name in COMPARE else common.itemsize)

    return room
