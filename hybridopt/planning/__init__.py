"""What fits before anything is loaded: bytes of a training step by closed forms and a simulated step."""

from .estimate import Estimate, Estimator
from .live import plan_live
from .model import source
from .request import Request
from .search import Choice, search
from .sizes import parse_size

__all__ = ["Choice", "Estimate", "Estimator", "Request", "parse_size", "plan", "plan_live", "search"]


def plan(model: object, request: Request) -> Estimate:
    """What training a model takes: a known name, a config.json, a folder, or transformers' configuration.

    Nothing is loaded or downloaded. Raises HybridOptError for what cannot be done.
    """
    return Estimator(source(model)).estimate(request)
