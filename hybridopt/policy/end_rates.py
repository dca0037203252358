"""The learning rate of a model's two ends, embeddings and output layer, as a multiple of that of all else."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from ..core.contracts import Ready
from ..core.errors import check_number
from .plan import Entry
from .routes import Route

__all__ = ["ENDS", "OPTION", "scaled", "unused"]

ENDS = ("embedding", "head")
OPTION = "embeddings_lr_scale"
LEAST, MOST = 1e-6, 1e6


def scaled(routes: Iterable[Route], factor: float, owner: str) -> tuple[Route, ...]:
    """Return routes by which embeddings and the output layer have `factor` times the learning rate.

    Args:
        routes: of a policy.
        factor: on every update of these, but not on their decay; HybridOptError beyond what is sensible.
        owner: whose option it is.
    """
    check_number(owner, OPTION, factor, LEAST, MOST)
    return tuple(routes) if factor == 1 else tuple(each for route in routes for each in _divided(route, factor))


def _divided(route: Route, factor: float) -> Iterator[Route]:
    """Yield a route for the ends of the model, if this one is for them, too, and one for all else."""
    ends = "|".join(role for role in ENDS if route.takes(role))
    if ends and route.use is not None:
        yield replace(route, role=ends, use=replace(route.use, lr_scale=factor * route.use.lr_scale))
    if not ends or route.use is None or not set(route.role.split("|")) <= set(ENDS):
        yield route


def unused(policy: Ready[Route], entries: Collection[Entry]) -> str | None:
    """Return a warning that neither embeddings nor an output layer are trained, whose rate is scaled; None else."""
    factor = vars(policy).get(OPTION, 1)
    if factor == 1 or not entries or any(e.param.role in ENDS and e.treatment is not None for e in entries):
        return None
    return (
        f"{OPTION}={factor:g} does nothing: neither embeddings nor an output layer are trained, as with adapters "
        f"alone; leave it out, or train them (modules_to_save of a LoraConfig, or the policy's embeddings and head)"
    )
