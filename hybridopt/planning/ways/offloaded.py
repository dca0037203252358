"""Ways to train with layers that rest on the host or on disk, for models that fit in no other way."""

from dataclasses import replace

from ...core.host import Host
from ...model.placement.placement import Placement
from .ways import EIGHT, FOUR, WAYS, Way

__all__ = ["CACHE", "placed_ways", "rests_as"]

CACHE = "placed-weights"  # a folder for codes, which no file of a model holds
PLACES = {
    "host": ("layers on the host", "layers are carried over the bus"),
    "disk": ("layers on disk", "layers are read from disk"),
}
# Adapters on a frozen base, by the bytes that a step carries: what costs least first.
BASES = (FOUR.name, EIGHT.name, None)


def placed_ways(device: str, host: Host | None, asked: bool = False) -> tuple[Way, ...]:
    """Return the ways that place layers, those that cost least time first; none where the host is not known.

    Args:
        device: "cuda" or "cpu"; what the CPU computes with is in the host's memory anyway, so that it places on disk.
        host: whose memory weights may take.
        asked: are such ways asked for, whether the host is known or not?
    """
    if not asked and (host is None or host.memory is None):
        return ()
    bases = ("disk",) if device == "cpu" else ("host", "disk")
    return tuple(_placed(_adapters_on(scheme), base) for base in bases for scheme in BASES)


def rests_as(placement: Placement | None, asked: Placement | None) -> bool:
    """Return whether the layers of a way rest where they are asked to; "auto" asks for no place of its own."""
    if placement is None or asked is None:
        return placement is asked
    return asked.base in ("auto", placement.base)


def _adapters_on(scheme: str | None) -> Way:
    return next(way for way in WAYS if way.lora is not None and way.quantization == scheme)


def _placed(way: Way, base: str) -> Way:
    cache = CACHE if base == "disk" and way.quantization is not None else None
    title, cost = PLACES[base]
    title, why = f"{way.title}, {title}", f"{way.why}; {cost} in every pass"
    return replace(way, title=title, why=why, placement=Placement(base, cache=cache))
