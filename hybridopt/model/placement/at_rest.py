"""Which parameters of a model rest elsewhere, and with how many bytes."""

from torch import nn

from ..roles import clean
from .placing import placed

__all__ = ["bytes_at_rest", "where_it_rests"]


def where_it_rests(model: nn.Module) -> str | None:
    """Return "host" or "disk", where the layers of a model rest; None: it is not placed."""
    there = placed(model)
    return None if there is None else there.placement.base


def bytes_at_rest(model: nn.Module) -> dict[str, int]:
    """Return the bytes of every parameter that rests elsewhere, its constants among them, by its name as it is now."""
    there = placed(model)
    units = [] if there is None else there.units
    names = {id(p): clean(n) for n, p in model.named_parameters()}
    found: dict[str, int] = {}
    for unit in units:
        live = {piece.weight: names.get(id(piece.tensor)) for piece in unit.pieces if piece.name == piece.weight}
        for piece in unit.pieces:
            name = live.get(piece.weight)
            if name is not None:
                found[name] = found.get(name, 0) + piece.nbytes
    return found
