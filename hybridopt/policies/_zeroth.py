"""The routes that all zeroth-order policies share."""

from ..base import Source
from ..policy import place, places
from ..rules.sgd import SGD
from ..splits.empty import Empty
from ..treatment import Treatment

__all__ = ["everything_by"]


def everything_by(policy: object, source: Source, **axes: object) -> tuple:
    """Everything state-free by SGD along what the source finds, unless `axes` say otherwise; quantized ones frozen."""
    body = Treatment(**{"source": source, "free": SGD(), "split": Empty(), **axes})
    return place(body, **places(policy), other="free" if isinstance(body.split, Empty) else "full")
