"""The routes that all zeroth-order policies share."""

from ...core.contracts import Source
from ...parts.rules.sgd import SGD
from ...parts.splits.empty import Empty
from ..routes import place, places
from ..treatment import Treatment

__all__ = ["everything_by"]


def everything_by(policy: object, source: Source, **axes: object) -> tuple:
    """Everything state-free by SGD along what the source finds, unless `axes` say otherwise; quantized ones frozen."""
    body = Treatment(**{"source": source, "free": SGD(), "split": Empty(), **axes})
    return place(body, **places(policy), other="free" if isinstance(body.split, Empty) else "full")
