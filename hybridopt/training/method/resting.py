"""Where the layers of a run rest: what run.yaml says, as the library takes it, and back."""

from pathlib import Path

from ...core.host import speeds_file
from ...model.placement.placement import Placement, read_placement
from ...planning.ways.offloaded import CACHE
from ..config.run import AUTO, PlacementSettings

__all__ = ["placement_of", "settings_of", "usual_cache"]


def placement_of(asked: PlacementSettings | None) -> Placement | None:
    """Return where layers rest, as a run says; None for the device."""
    if asked is None:
        return None
    cache = asked.cache or (str(usual_cache()) if asked.base in (AUTO, "disk") else None)
    return read_placement(Placement(**vars(asked) | {"cache": cache}), "method")


def settings_of(placement: Placement | None, asked: PlacementSettings | None) -> PlacementSettings | None:
    """Return a placement as a run says it; what runs cannot say is as it usually is.

    Args:
        placement: None: everything is on the device.
        asked: what the run said.
    """
    if placement is None:
        return asked if asked is not None and asked.base == "device" else None
    own = None if placement.cache is None else str(placement.cache)
    cache = None if own in (CACHE, str(usual_cache())) else own
    return PlacementSettings(placement.base, placement.slots, placement.resident, placement.ahead, cache)


def usual_cache() -> Path:
    """Return the folder for weights that no file holds as they are used, where a run names none."""
    return speeds_file().parent / CACHE
