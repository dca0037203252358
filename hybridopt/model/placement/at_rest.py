"""Which parameters of a model rest elsewhere, where, and with how many bytes."""

from torch import nn

from ..roles import clean
from .placed import placed

__all__ = ["at_rest", "where_it_rests"]


def where_it_rests(model: nn.Module) -> str | None:
    """Return "host" or "disk", where the layers of a model rest; None: it is not placed."""
    there = placed(model)
    return None if there is None else there.placement.base


def at_rest(model: nn.Module) -> dict[str, tuple[str, int]]:
    """Return where every parameter that rests elsewhere does so, and its bytes with those of its constants.

    They are known by their names as they are now. A table of embeddings of which only rows go to the device counts.
    """
    there = placed(model)
    if there is None:
        return {}
    names = {id(p): clean(n) for n, p in model.named_parameters()}
    found = {names[id(x)]: ("host", x.nbytes) for x in there.aside if id(x) in names}
    for unit in there.units:
        live = {piece.weight: names.get(id(piece.tensor)) for piece in unit.pieces if piece.name == piece.weight}
        for piece in unit.pieces:
            name = live.get(piece.weight)
            if name is not None:
                found[name] = there.placement.base, found.get(name, ("", 0))[1] + piece.nbytes
    return found
