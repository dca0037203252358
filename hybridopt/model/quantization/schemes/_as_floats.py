"""8-bit codes in files that other libraries read: as floats, beside the grids that lead back to the codes."""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ....parts.stores._int8_weight import Int8Weight

__all__ = ["save_as_codes_", "save_as_floats_"]

SAVE = "save_pretrained"  # of models that write themselves, such as those of transformers


def save_as_floats_(model: nn.Module) -> None:
    """Let every module within `model` that has coded weights and writes itself write floats in their places."""
    for module in model.modules():
        if SAVE in dir(type(module)) and _coded(module):
            vars(module)[SAVE] = functools.partial(_save, module)


def save_as_codes_(model: nn.Module) -> None:
    """Undo `save_as_floats_`."""
    for module in model.modules():
        own = vars(module).get(SAVE)
        if isinstance(own, functools.partial) and own.func is _save:
            del vars(module)[SAVE]


def _save(module: Any, *args: Any, **kwargs: Any) -> Any:
    save = type(module).save_pretrained
    given = inspect.signature(save).bind(module, *args, **kwargs)
    state = given.arguments.get("state_dict")
    given.arguments["state_dict"] = _floats(module, module.state_dict() if state is None else state)
    return save(*given.args, **given.kwargs)


def _floats(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of `module` with floats, on the CPU, in the place of codes.

    Codes stay beside them where they do not follow from the floats and their grids.
    """
    found = dict(state)
    for key, weight in _coded(module).items():
        if f"{key}.codes" not in state:
            continue
        codes, scale, zero = (state[f"{key}.{part}"] for part in ("codes", "scale", "zero"))
        values = Int8Weight(codes, scale, zero, weight.dtype).dequantize()
        if weight.ndim != 2:  # transformers stores stacks of experts one by one, without anything beside them
            found = {name: x for name, x in found.items() if not name.startswith(f"{key}.")}
        elif torch.equal(Int8Weight.on_grids(values, scale, zero).codes, codes):
            del found[f"{key}.codes"]
        found[key] = values.cpu()
    return found


def _coded(module: nn.Module) -> dict[str, Int8Weight]:
    return {name: weight for name, weight in module.named_parameters() if isinstance(weight, Int8Weight)}
