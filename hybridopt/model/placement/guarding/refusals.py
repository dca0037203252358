"""What cannot be done to weights that rest elsewhere, refused by name before anything is changed."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ....core.contracts import Adapters, HowTrained
from ....core.errors import HybridOptError
from ...roles import base_name, clean
from ..homes import check_kept
from ..placed import Placed, placed
from .moving import not_trained
from .weight_places import refuse_replaced

__all__ = ["check_keeps_base", "check_not_quantized", "check_trainable", "check_written"]


def check_trainable(model: nn.Module, trained: Mapping[str, HowTrained]) -> None:
    """Raise HybridOptError if weights that rest elsewhere are to be trained by backward passes, or are not there.

    Args:
        model: placed or not.
        trained: how parameters are trained, by name.
    """
    there = placed(model)
    if there is None:
        return
    _check_there(model, there)
    for name in _names(model, there):
        if name in trained and trained[name].source.backward:
            raise HybridOptError(not_trained(there.placement.base, name), "placement")


def check_written(model: nn.Module, names: Iterable[str], what: str) -> None:
    """Raise HybridOptError if values are going to be written for weights that rest where that cannot be done.

    Args:
        model: placed or not.
        names: base names of what is written; of codes that of their layer.
        what: is going to be done.
    """
    there = placed(model)
    own = {base_name(name): name for name in _names(model, there)}
    for name in names:
        if f"{name}.weight" in own:
            raise HybridOptError(
                f"{what} would write the codes of {name!r}, and the layers of this {type(model).__name__} rest "
                "elsewhere, where codes are never written; load the base without placement",
                "placement",
            )
        if name in own:
            check_kept(name, model.get_parameter(own[name]), f"{what} has other values for it")


def check_keeps_base(model: nn.Module, library: Adapters | None, config: Any, resting: object | None) -> None:
    """Raise HybridOptError for adapters that begin by changing weights of layers that rest elsewhere.

    Args:
        model: placed, or about to be.
        library: of the adapters that are going to be put on it; None: there are none.
        config: of these.
        resting: is it about to be placed?
    """
    there = resting is not None or placed(model) is not None
    if there and library is not None and library.changes_base(config):
        raise HybridOptError(
            "these adapters begin by changing the weights that they are put on, and what rests elsewhere is not "
            "written; take a plain start (init_lora_weights=True), or leave placement out",
            "wrap",
        )


def check_not_quantized(model: nn.Module, quantization: str | None) -> None:
    """Raise HybridOptError if a placed model is to be quantized."""
    if quantization is not None and placed(model) is not None:
        raise HybridOptError(
            f"quantization={quantization!r} is not allowed: the layers of this {type(model).__name__} rest elsewhere "
            f"already; give it where they are placed: hybridopt.load(..., quantization={quantization!r}, "
            "placement=...)",
            "wrap",
        )


def _check_there(model: nn.Module, there: Placed) -> None:
    """Raise HybridOptError if others have put their own tensors in the places of weights that rest elsewhere."""
    live = {id(p) for p in model.parameters()}
    lost = (x.weight for u in there.units for x in u.pieces if x.name == x.weight and id(x.tensor) not in live)
    if (name := next(lost, None)) is not None:
        refuse_replaced(name)


def _names(model: nn.Module, there: Placed | None) -> list[str]:
    kept = set() if there is None else {id(piece.tensor) for unit in there.units for piece in unit.pieces}
    return [clean(n) for n, p in model.named_parameters() if id(p) in kept]
