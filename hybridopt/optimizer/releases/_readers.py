"""Whether a graph that is still to be run backward has saved a weight."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["still_read"]


def still_read(p: Tensor) -> bool:
    """Return whether somebody else holds a weight, or its memory, while the hook of its gradient runs.

    When that hook runs, every operation with a gradient for the weight has been run backward and has let go of it.
    What still refers to it is an operation that read it without one (through `detach()`), a graph of another loss, one
    that is kept (`retain_graph`), or a view that its owner keeps; autograd would refuse to read a weight that was
    written since. Reference counts tell that without looking for graphs. Shards are copied for use, and are their own.
    """
    if hasattr(p, "to_local") or hasattr(p, "__tensor_flatten__"):
        return False
    return any(now > alone for now, alone in zip(_counts(p), _alone(), strict=True))


@cache
def _alone() -> tuple[int, int]:
    """Return the counts of a weight that nobody else holds, in the hook of its gradient."""
    found: list[tuple[int, int]] = []
    with _disable_current_modes(), torch.inference_mode(False), torch.enable_grad():
        p = nn.Parameter(torch.zeros(1))
        p.register_post_accumulate_grad_hook(lambda p: found.append(_counts(p)))
        (p * p).sum().backward()
    return found[0]


def _counts(p: Any) -> tuple[int, int]:
    """Return how many refer to a tensor, and to its memory."""
    return p._use_count(), torch._C._storage_Use_Count(p.untyped_storage()._cdata)
