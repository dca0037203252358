"""Run code on tensors without memory: caches and value-dependent branches of libraries are replaced meanwhile."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ...core.numerics import rounding

__all__ = ["fake_tensors", "meta_tensors"]


@contextmanager
def fake_tensors(device: str = "cpu") -> Iterator[None]:
    """Make every new tensor fake within `with`: it has shape, strides and dtype, a CPU's name, and no memory.

    device: "cuda" lets 8-bit layers compute as they do there.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    _fill_tables()
    with ExitStack() as stack:
        stack.enter_context(_instead(rounding, "_tables", {}))
        masks = sys.modules.get("transformers.masking_utils")
        if hasattr(masks, "find_packed_sequence_indices"):  # it would take any batch for a packed one, and make a mask
            stack.enter_context(_instead(masks, "find_packed_sequence_indices", lambda position_ids: None))
        experts = sys.modules.get("transformers.integrations.moe")
        if experts is not None and hasattr(experts, "_can_use_grouped_mm"):  # torch fakes it in bfloat16 only
            stack.enter_context(_instead(experts, "_can_use_grouped_mm", _in_bfloat16(experts._can_use_grouped_mm)))
        functions = sys.modules.get("bitsandbytes.autograd._functions")
        if functions is not None and device == "cuda":
            stack.enter_context(_instead(functions, "MatMul8bitFp", _OnGpu))
            stack.enter_context(_instead(functions, "logger", logging.Logger("unheard", logging.CRITICAL)))
        stack.enter_context(FakeTensorMode())
        yield


@contextmanager
def meta_tensors() -> Iterator[None]:
    """Make new tensors on the meta device within `with`, unless a device is given."""
    with _instead(rounding, "_tables", {}), torch.device("meta"):
        yield


def _in_bfloat16(known: Callable[..., bool]) -> Callable[..., bool]:
    return lambda x, weight, *rest: weight.dtype == torch.bfloat16 and known(x, weight, *rest)


class _OnGpu:
    """Compute the 8-bit product as on a GPU, in place of what bitsandbytes takes for tensors on CPUs."""

    @staticmethod
    def apply(x: Tensor, weight: Tensor, out: Tensor | None, bias: Tensor | None, state: Any) -> Tensor:
        """Multiply without outliers, as their number depends on values; arguments are those of bitsandbytes."""
        from bitsandbytes.autograd._functions import MatMul8bitLt

        state.threshold = 0.0
        return MatMul8bitLt.apply(x, weight, out, bias, state)


def _fill_tables() -> None:
    """Fill bitsandbytes' cached table beforehand: it is computed from values, so fake tensors must not make it."""
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is not None and "dynamic" not in functional.name2qmap:
        functional.name2qmap["dynamic"] = functional.create_dynamic_map()


@contextmanager
def _instead(module: object, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
