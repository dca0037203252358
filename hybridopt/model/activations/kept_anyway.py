"""Whether a tensor stays until the backward pass though no linear layer keeps it."""

from typing import Any

from torch import Tensor

from ...core.storages import same_storage

__all__ = ["kept_anyway"]

VIEWS = ["AsStridedBackward0", "ReshapeAliasBackward0", "SqueezeBackward1", "TransposeBackward0"]
VIEWS += ["UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0"]
SAVED = ("_saved_result", "_saved_output")  # as torch's operations call their own result where they keep it


def kept_anyway(x: Tensor) -> bool:
    """Return whether the operation that made `x` keeps it for its own backward pass, as attention, relu and tanh do.

    Then nothing is gained by keeping less of it elsewhere.
    """
    node: Any = x.grad_fn
    while node is not None and node.name() in VIEWS:
        node = node.next_functions[0][0]
    return any(isinstance(saved := _saved(node, name), Tensor) and same_storage(saved, x) for name in SAVED)


def _saved(node: Any, name: str) -> object:
    """Return what an operation has saved under a name; None where hooks of others have it, and do not give it back."""
    try:
        return getattr(node, name, None)
    except Exception:  # whatever such a hook raises
        return None
