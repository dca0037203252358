"""Routes of methods that are made for matrices: everything else by AdamW."""

from dataclasses import replace

from ...parts.rules.adamw import AdamW
from ..routes import Route
from ..treatment import Treatment
from ._options import Places

__all__ = ["matrices"]


def matrices(policy: Places, body: Treatment, rest: AdamW) -> tuple[Route, ...]:
    """Return routes by which only `body` keeps its rule: "full" means state-full by `rest`.

    Args:
        policy: says where parameters of a role go.
        body: the treatment of linear and convolution weights.
        rest: the rule of everything else.
    """
    routes = policy.placed(body)
    return tuple(r if r.use is None or r.use is body else replace(r, use=replace(r.use, full=rest)) for r in routes)
