"""Whether adapters that are on a model already, whoever has put them there, can be trained, saved and loaded."""

from typing import Any

from hybridopt.core.errors import HybridOptError
from hybridopt.model.fsdp.sharded_tensors import sharded_tensors

from . import tree
from .rehearsal import (
    check_distinct,
    check_kind,
    check_saved,
    check_stable,
    difference,
    quiet,
    rehearsed,
    renamed,
    state,
)
from .skeleton import bare_, without_memory
from .trial import check_computes
from .uncompiled import uncompiled_config

__all__ = ["check_attached"]


def check_attached(model: Any) -> None:
    """Raise HybridOptError if adapters that are on a model already could not be saved and loaded again.

    Their configurations are tried on a copy of the base without memory, as loading will do; not where it is sharded.

    Args:
        model: of which `tree.owns` is true; it is not changed.
    """
    with quiet():
        for config in model.peft_config.values():
            _check_kind(model, config)
        live = tree.base_of(model)
        if not sharded_tensors(live):  # shards cannot be copied; what is saved of them is checked when it is loaded
            _check_rehearsed(model, live)
        check_distinct(model)
        check_saved(model, " and ".join(sorted({type(each).__name__ for each in model.peft_config.values()})))


def _check_rehearsed(model: Any, live: Any) -> None:
    """Raise for an adapter that PEFT would not make again of its configuration on the base."""
    base = bare_(without_memory(live))
    for name, config in model.peft_config.items():
        again = rehearsed(base, uncompiled_config(config), name)
        if odd := difference(state(model, name), state(again, name)):
            raise HybridOptError(
                f"adapter {name!r}: {odd!r} is not what PEFT makes of its {type(config).__name__} on the base, so "
                "that it could not be loaded again; give wrap the bare model with peft_config=..., or the adapter "
                "as PEFT makes it"
            )
        check_computes(live, again, name)


def _check_kind(model: Any, config: Any) -> None:
    """Raise for kinds of adapters of which PEFT itself keeps too little, or that it holds in its own way."""
    from peft.tuners.tuners_utils import BaseTuner

    what = type(config).__name__
    check_kind(config)
    check_stable(model, what)
    if not tree.is_injected(model) and not isinstance(model.base_model, BaseTuner):
        raise HybridOptError(renamed(what, "layers"))
