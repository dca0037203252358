"""Routes of methods that are made for matrices: everything else by AdamW."""

from dataclasses import replace

from ...parts.rules.adamw import AdamW
from ..routes import Route, place
from ..treatment import Treatment

__all__ = ["matrices"]


def matrices(body: Treatment, rest: AdamW, **places: str) -> tuple[Route, ...]:
    """`place`, where only `body` itself keeps its rule: "full" means state-full by `rest`."""
    routes = place(body, **places)
    return tuple(r if r.use is None or r.use is body else replace(r, use=replace(r.use, full=rest)) for r in routes)
