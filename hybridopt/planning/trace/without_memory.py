"""Run code on tensors without memory: caches and value-dependent branches of libraries are replaced meanwhile."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from ...core.numerics import rounding
from ...core.patching import instead
from ...core.registry import every

if TYPE_CHECKING:
    from .quick_fakes import QuickFakes

__all__ = ["fake_tensors", "meta_tensors"]


@contextmanager
def fake_tensors(device: str = "cpu") -> Iterator["QuickFakes"]:
    """Make every new tensor fake within `with`: it has shape, strides and dtype, a CPU's name, and no memory.

    device: "cuda" lets quantized layers compute as they do there.

    Yields:
        What makes the tensors.
    """
    from .quick_fakes import QuickFakes

    with ExitStack() as stack:
        for scheme in every("schemes"):
            stack.enter_context(scheme.faked(device))
        stack.enter_context(instead(rounding, "_tables", {}))
        masks = sys.modules.get("transformers.masking_utils")
        if masks is not None and hasattr(masks, "find_packed_sequence_indices"):  # it would take all for packed
            stack.enter_context(instead(masks, "find_packed_sequence_indices", lambda position_ids: None))
        experts = sys.modules.get("transformers.integrations.moe")
        if experts is not None and hasattr(experts, "_can_use_grouped_mm"):  # torch fakes it in bfloat16 only
            stack.enter_context(instead(experts, "_can_use_grouped_mm", _in_bfloat16(experts._can_use_grouped_mm)))
        yield stack.enter_context(QuickFakes())


@contextmanager
def meta_tensors() -> Iterator[None]:
    """Make new tensors on the meta device within `with`, unless a device is given."""
    with instead(rounding, "_tables", {}), torch.device("meta"):
        yield


def _in_bfloat16(known: Callable[..., bool]) -> Callable[..., bool]:
    return lambda x, weight, *rest: weight.dtype == torch.bfloat16 and known(x, weight, *rest)
