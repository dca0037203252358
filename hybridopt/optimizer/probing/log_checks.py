"""Whether a saved log of probes is one: its keys, types and shapes, and numbers that a run can have left."""

from typing import Any

import torch
from torch import Tensor

from ...core.errors import HybridOptError, shown
from ...core.files import plain_json
from .follow import HEAD
from .rates import check_rates

__all__ = ["check_log"]

WHERE = "the saved log"
NUMBERS = {"slopes": (torch.float32, 2), "rates": (torch.float64, 2), "counts": (torch.int32, 1)}
KEYS = (*NUMBERS, "groups", "origin", "heads", "weights", "broken")


def check_log(state: object, samples: int) -> dict[str, Any]:
    """Return what `Log.state` has given; HybridOptError for anything else.

    Args:
        state: what was saved.
        samples: directions a step of this optimizer.
    """
    if not isinstance(state, dict) or not set(KEYS) <= state.keys():
        raise HybridOptError(f"{WHERE} is no log: it must have {', '.join(KEYS)}")
    plain_json.only(state, KEYS, WHERE)
    for name, (dtype, ndim) in NUMBERS.items():
        _check_tensor(name, state[name], dtype, ndim)
    if state["slopes"].shape[1] != samples:
        shape = tuple(state["slopes"].shape)
        raise HybridOptError(f"{WHERE} has slopes of shape {shape}, this optimizer {samples} a step")
    _check_names(state)
    if not state["broken"]:
        check_rates(state["slopes"], state["rates"], state["counts"], len(state["groups"]), WHERE)
    return state


def _check_tensor(name: str, x: object, dtype: torch.dtype, ndim: int) -> None:
    good = isinstance(x, Tensor) and x.layout == torch.strided and not x.is_meta
    if not isinstance(x, Tensor) or not good or (x.dtype, x.ndim) != (dtype, ndim):
        raise HybridOptError(f"{WHERE}: {name}={shown(x)} must be a dense tensor of {dtype} with {ndim} dimensions")


def _check_names(state: dict[str, Any]) -> None:
    if not isinstance(state["groups"], list | tuple) or not all(isinstance(name, str) for name in state["groups"]):
        raise HybridOptError(f"{WHERE}: groups={shown(state['groups'])} must be a list of names")
    if not isinstance(state["broken"], str):
        raise HybridOptError(f"{WHERE}: broken={shown(state['broken'])} must be a text")
    for key in ("origin", "weights", "heads"):
        found = state[key]
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise HybridOptError(f"{WHERE}: {key}={shown(found)} must be a dict by parameter name")
        wrong = next((name for name, value in found.items() if not _fits(key, value)), None)
        if wrong is not None:
            what = f"a tensor of up to {HEAD} elements" if key == "heads" else "a checksum"
            raise HybridOptError(f"{WHERE}: {key} of {wrong!r} is {shown(found[wrong])}; it must be {what}")


def _fits(key: str, value: object) -> bool:
    if key == "heads":
        dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        return isinstance(value, Tensor) and dense and value.is_floating_point() and value.numel() <= HEAD
    return type(value) is int and 0 <= value < 2**64
