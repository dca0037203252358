"""What fits before anything is loaded: bytes of a training step by closed forms and a simulated step."""

from ..core.sizes import parse_size
from .estimate import Estimate, Estimator
from .live import plan_live
from .request import Request
from .subject.inputs import tokens_of
from .subject.model import subject_of
from .ways.search import Choice, search

__all__ = ["Choice", "Estimate", "Estimator", "Request", "parse_size", "plan", "plan_live", "search", "tokens"]


def plan(model: object, request: Request) -> Estimate:
    """What training a model takes: a known name, a config.json, a folder, or transformers' configuration.

    Nothing is loaded or downloaded. Raises HybridOptError for what cannot be done.
    """
    return Estimator(subject_of(model)).estimate(request)


def tokens(model: object) -> int:
    """Tokens of a sequence where nobody says: 2048, or as many as a model, given as to `plan`, has positions for."""
    return tokens_of(subject_of(model))
