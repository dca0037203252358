"""Tensors without memory and without a trace: what a process keeps, or decides by values, is put aside meanwhile."""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from ...core.numerics import rounding

__all__ = ["fake_tensors", "meta_tensors"]


@contextmanager
def fake_tensors(device: str = "cpu") -> Iterator[None]:
    """Within it every tensor that is made is fake: shape, strides and dtype, on the CPU by name, and no memory.

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
        if hasattr(experts, "_can_use_grouped_mm"):  # without values torch knows that product in bfloat16 only
            stack.enter_context(_instead(experts, "_can_use_grouped_mm", _in_bfloat16(experts._can_use_grouped_mm)))
        functions = sys.modules.get("bitsandbytes.autograd._functions")
        if functions is not None and device == "cuda":
            stack.enter_context(_instead(functions, "MatMul8bitFp", _OnGpu))
            stack.enter_context(_instead(functions, "logger", logging.Logger("unheard", logging.CRITICAL)))
        stack.enter_context(FakeTensorMode())
        yield


@contextmanager
def meta_tensors() -> Iterator[None]:
    """Within it tensors are made on meta, unless something else is said."""
    with _instead(rounding, "_tables", {}), torch.device("meta"):
        yield


def _in_bfloat16(known):
    return lambda x, weight, *rest: weight.dtype == torch.bfloat16 and known(x, weight, *rest)


class _OnGpu:
    """Stands in for the 8-bit product that bitsandbytes takes for tensors on CPUs."""

    @staticmethod
    def apply(x, weight, out, bias, state):
        """Without outliers, as their number depends on values."""
        from bitsandbytes.autograd._functions import MatMul8bitLt

        state.threshold = 0.0
        return MatMul8bitLt.apply(x, weight, out, bias, state)


def _fill_tables():
    """bitsandbytes makes a table once, by reading values, and keeps it: it has to be a real one."""
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is not None and "dynamic" not in functional.name2qmap:
        functional.name2qmap["dynamic"] = functional.create_dynamic_map()


@contextmanager
def _instead(module, name, value):
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
