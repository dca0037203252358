"""Whether a graph that is still to be run backward has saved a weight."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["held_at_rest", "still_read"]


def still_read(p: Tensor, beside: int = 0) -> bool:
    """Return whether somebody else holds a weight, or its memory, while the hook of its gradient runs.

    Args:
        p: the weight.
        beside: how many more hold it at any time, as DDP's reducer does.

    When that hook runs, every operation with a gradient for the weight has been run backward and has let go of it.
    What still refers to it is an operation that read it without one (through `detach()`), a graph of another loss, one
    that is kept (`retain_graph`), or a view that its owner keeps; autograd would refuse to read a weight that was
    written since. Reference counts tell that without looking for graphs. Shards are copied for use, and are their own.
    """
    if hasattr(p, "__tensor_flatten__"):  # DTensors have it, too
        return False
    (holding, sharing), (one, own) = _counts(p), _alone()
    return holding > one + beside or sharing > own


@cache
def _alone() -> tuple[int, int]:
    """Return the counts of a weight that nobody else holds, in the hook of its gradient."""
    found: list[tuple[int, int]] = []
    with _disable_current_modes(), torch.inference_mode(False), torch.enable_grad():
        p = nn.Parameter(torch.zeros(1))
        p.register_post_accumulate_grad_hook(lambda p: found.append(_counts(p)))
        (p * p).sum().backward()
    return found[0]


def held_at_rest(p: Tensor) -> int:
    """Return how many refer to a weight between two passes, including the node of graphs that adds its gradient."""
    node = get_gradient_edge(p)
    return _counts(p)[0] if node else 0


def _counts(p: Any) -> tuple[int, int]:
    """Return how many refer to a tensor, and to its memory."""
    return p._use_count(), torch._C._storage_Use_Count(p.untyped_storage()._cdata)
