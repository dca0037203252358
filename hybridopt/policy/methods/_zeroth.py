"""The treatment that all zeroth-order policies start from."""

from typing import Any

from ...core.contracts import Source
from ...parts.rules.sgd import SGD
from ...parts.splits.empty import Empty
from ..treatment import Treatment

__all__ = ["along"]


def along(source: Source, **axes: Any) -> Treatment:
    """Return state-free SGD along what the source finds, unless `axes` of the treatment say otherwise."""
    return Treatment(**{"source": source, "free": SGD(), "split": Empty(), **axes})
