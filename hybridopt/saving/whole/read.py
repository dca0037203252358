"""A whole model folder that was saved, read back onto a model of the same class."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import HybridOptError
from ...model.loading.matching import Match, match
from ...model.loading.weight_files import INDEX, WHOLE, stored
from ...model.placement.homes import assign
from ..folder import Folder
from ..names import CONFIG, DELTA, REPLAY

__all__ = ["check_whole", "matched", "write_onto_"]


def check_whole(folder: Folder, config: dict) -> None:
    """Raise HybridOptError for a folder of a whole model that holds what does not go with one, or no weights.

    Args:
        folder: the saved folder.
        config: its configuration.
    """
    if not config["whole"]:
        return
    odd = [name for name in (DELTA, REPLAY) if name in folder.names]
    odd += [f"{key}={config[key]!r}" for key in ("quantized", "adapters", "quantization", "replayed") if config[key]]
    if odd:
        raise HybridOptError(f"{CONFIG} says that a whole model was saved, and {odd[0]} does not go with that")
    if not {WHOLE, INDEX} & set(folder.names):
        raise HybridOptError(
            f"{CONFIG} says that a whole model was saved, and {folder.directory} has no {WHOLE}: copy or save the "
            "whole folder again"
        )


def matched(model: nn.Module, place: Path) -> Match:
    """Return which stored tensors make which tensors of a model, all checked before anything is written.

    Args:
        model: of the class that was saved.
        place: a folder with all saved files.

    Raises:
        HybridOptError: for a model of another class, and for tensors of other shapes or dtypes.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise HybridOptError(f"a whole transformers model was saved, and {type(model).__name__} is none")
    found = match(model, stored(place))
    state = model.state_dict(keep_vars=True)
    for first, sources in found.sources.items():
        for name in found.made[first]:
            for entry, _ in sources:
                if entry.dtype != state[name].dtype:
                    raise HybridOptError(
                        f"{name!r} was saved in {entry.dtype}, and the model has it in {state[name].dtype}; load the "
                        "model in the dtypes that were trained (dtype=...)"
                    )
    return found


def write_onto_(model: nn.Module, found: Match) -> None:
    """Write stored tensors onto a model, one at a time; of a sharded one each rank takes its rows.

    Args:
        model: whose tensors are overwritten.
        found: what `matched` has returned.
    """
    state: dict[str, Any] = model.state_dict(keep_vars=True)

    def written(name: str, value: Tensor, _: bool) -> Tensor:
        assign(state[name], value)
        return value

    with torch.no_grad():
        for _ in found.tensors(written):
            pass
