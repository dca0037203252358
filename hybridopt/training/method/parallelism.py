"""Choose how several processes share a model: as replicas if a whole one fits on each GPU, otherwise as shards."""

from dataclasses import replace
from typing import Any

from ...core.errors import HybridOptError
from ...core.launch_environment import world
from ...core.sizes import gib
from ...planning.ways.ways import WAYS
from ..config.run import AUTO, Run
from .choosing import Chosen, Shape, choose

__all__ = ["choose_together"]

REPLICAS, SHARDS = "ddp", "fsdp"
TITLES = [way.title for way in WAYS]  # the best first


def choose_together(run: Run, config: Any, shape: Shape, must_fit: bool = True) -> Chosen:
    """Return what `choose` does; where `parallel` is "auto" and there are several processes, that is chosen as well.

    A method that is named is carried out by replicas if one fits on each GPU, otherwise by shards. Where the method is
    to be chosen, too, shards are taken if a better one fits in them.

    Args:
        run: what is asked.
        config: of the model, with the output layer that is trained.
        shape: of its passes.
        must_fit: whether a method that does not fit is refused.

    Raises:
        HybridOptError: nothing that is asked for fits, with the least change.
    """
    if run.parallel != AUTO or world().size == 1:
        return choose(run, config, shape, must_fit)
    replicas, refused = _tried(replace(run, parallel=REPLICAS), config, shape)
    if shape.shards and (replicas is None or _rank(replicas) > 0):
        shards, refused = _tried(replace(run, parallel=SHARDS), config, shape)
        if shards is not None and (replicas is None or _rank(shards) < _rank(replicas)):
            return _told(shards, _why(replicas, shards))
    if replicas is not None:
        return _told(replicas, "the whole model fits on each GPU")
    if refused is not None and must_fit:
        raise refused
    return choose(replace(run, parallel=SHARDS if shape.shards else REPLICAS), config, shape, must_fit)


def _tried(run: Run, config: Any, shape: Shape) -> tuple[Chosen | None, HybridOptError | None]:
    """Return what is chosen, or why it is refused."""
    try:
        return choose(run, config, shape), None
    except HybridOptError as error:
        return None, error


def _rank(chosen: Chosen) -> int:
    """Return how good the chosen method is, 0 the best; all methods that are named are alike."""
    if chosen.title is None:
        return 0
    return TITLES.index(chosen.title) if chosen.title in TITLES else len(TITLES)


def _why(replicas: Chosen | None, shards: Chosen) -> str:
    if replicas is None:
        return f"the whole model does not fit on each GPU, and its rows do ({gib(shards.estimate.peak_bytes)})"
    return f"of the whole model on each GPU, only this would fit: {replicas.title}"


def _told(chosen: Chosen, why: str) -> Chosen:
    return replace(chosen, told=[f"parallel={chosen.run.parallel}: {why}", *chosen.told])
