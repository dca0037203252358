"""Tell what fits before anything is loaded: bytes of a training step, by closed forms and a simulated step."""

from typing import TYPE_CHECKING

from ..core.lazy import offered
from ..core.sizes import parse_size

if TYPE_CHECKING:
    from .estimate import Estimate
    from .estimator import Estimator
    from .live import plan_live
    from .request import Request
    from .ways.choice import Choice
    from .ways.search import search

__all__ = [
    "Choice",
    "Estimate",
    "Estimator",
    "Request",
    "parse_size",
    "plan",
    "plan_live",
    "positions",
    "search",
    "tokens",
]

_HOMES = {
    "Choice": "ways.choice",
    "Estimate": "estimate",
    "Estimator": "estimator",
    "plan_live": "live",
    "Request": "request",
    "search": "ways.search",
}
__getattr__ = offered(__name__, _HOMES)


def plan(model: object, request: "Request") -> "Estimate":
    """Estimate the bytes that a training step of a model takes. Nothing is loaded or downloaded.

    Args:
        model: a known name, the path of a config.json or of a folder that holds one, or transformers' configuration.
        request: the way to train.

    Raises:
        HybridOptError: the model is not known, or cannot be trained in this way.
    """
    from .estimator import Estimator
    from .subject.source import subject_of

    return Estimator(subject_of(model)).estimate(request)


def tokens(model: object) -> int:
    """Return the default tokens of a sequence: 2048, or as many as a model, given as to `plan`, has positions for."""
    from .subject.inputs import small, usual_length
    from .subject.source import subject_of

    return usual_length(small(subject_of(model)))


def positions(model: object) -> int | None:
    """Return the rows of the table of positions of a model, given as to `plan`; None where there is no such table."""
    from .subject.inputs import positions, small
    from .subject.source import subject_of

    return positions(small(subject_of(model)))
