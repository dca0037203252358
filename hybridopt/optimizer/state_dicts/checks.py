"""Numbers and tensors of a saved optimizer state: none that a run cannot have left is taken."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.contracts import Slot
from ...core.errors import HybridOptError, check_count, check_number, shown
from ...model.fsdp.sharded_tensors import is_sharded, local, whole
from ...policy.job import BASIS, Job
from ..groups.hyperparameters import check_numbers

__all__ = ["CURE", "MOST_TURNS", "check_basis", "check_clocks", "check_group", "check_params", "check_shapes"]
__all__ += ["check_tensor"]

MOST_STEPS = 2**31 - 1  # directions are numbered by 32 bits
MOST_TURNS = 10**6  # windows: whose turn it is in one follows from all before it
CURE = "give what optimizer.state_dict() returned"
DEEPEST = 8  # levels of lists and dicts in a param group


def check_params(group: object) -> dict[str, Any]:
    """Return a saved param group whose parameters have names; HybridOptError for anything else."""
    if not isinstance(group, dict):
        raise HybridOptError(f"the saved state has a param group that is {shown(group)}; {CURE}")
    names, ids = group.get("param_names", ()), group.get("params")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise HybridOptError(f"the saved state has param_names={shown(names)}, which are no names; {CURE}")
    if not isinstance(ids, list | tuple) or not all(type(i) in (int, str) for i in ids):
        raise HybridOptError(f"the saved group of {shown(list(names[:3]))} has params={shown(ids)}; {CURE}")
    if names and (len(names) != len(ids) or len(set(names)) < len(names) or len(set(ids)) < len(ids)):
        raise HybridOptError(
            f"the saved group of {shown(list(names[:3]))} has {len(names)} names for {len(ids)} parameters, or one of "
            f"them twice; {CURE}"
        )
    return group


def check_group(group: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise HybridOptError for numbers of a saved param group that are out of range, or no numbers.

    Args:
        group: a saved param group.
        mine: the live one.
    """
    where = f"the saved group of {mine['param_names'][0]!r}"
    check_count(where, "step", group.get("step"), 0, MOST_STEPS)
    check_count(where, "seed", group.get("seed"), 0)
    lost = [key for key in ("lr", "weight_decay") if key not in group]
    if lost or group.get("tag") != mine["tag"]:
        raise HybridOptError(f"{where} has no {lost[0]!r}; {CURE}" if lost else f"{where} has another tag; {CURE}")
    check_numbers(dict(group), where)
    if group.get("grad_norm") is not None:
        check_number(where, "grad_norm", group["grad_norm"], 0)
    for key, value in group.items():
        if not isinstance(key, str) or not _finite(value):
            raise HybridOptError(f"{where} has {shown(key)}={shown(value)}; only finite numbers are taken")


def check_clocks(groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise HybridOptError unless all param groups have taken as many steps, by the same seed."""
    for key in ("step", "seed"):
        values = {group[key] for group in groups}
        if len(values) > 1:
            raise HybridOptError(
                f"the saved groups have different {key}s, {sorted(values)[:3]}: all parameters take the same; {CURE}"
            )


def check_shapes(group: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise HybridOptError if a parameter had another shape when it was saved; older states do not say."""
    saved = group.get("param_shapes")
    if saved is None:
        return
    if not isinstance(saved, list | tuple) or len(saved) != len(group["param_names"]):
        raise HybridOptError(f"the saved param_shapes {shown(saved)} are not those of its parameters; {CURE}")
    for name, shape in zip(group["param_names"], saved, strict=True):
        whole_numbers = isinstance(shape, list | tuple) and all(type(size) is int for size in shape)
        if not whole_numbers or tuple(shape) != shapes[name]:
            raise HybridOptError(f"parameter {name!r} was saved with shape {shown(shape)}, and has {shapes[name]} now")


def check_tensor(name: str, key: str, value: object, slot: Slot, p: Tensor, finite: bool) -> None:
    """Raise HybridOptError unless a saved tensor of state is what a parameter keeps.

    Args:
        name: of the parameter.
        key: of the tensor.
        value: what was saved.
        slot: what the parameter declares.
        p: the parameter.
        finite: refuse NaN and infinity, too.
    """
    what = f"the saved {key!r} of {name!r}"
    if not isinstance(value, Tensor):
        raise HybridOptError(f"{what} is no tensor: {shown(value)}")
    if (tuple(value.shape), value.dtype) != (tuple(slot.shape), slot.dtype):
        raise HybridOptError(
            f"{what} has shape {tuple(value.shape)} and dtype {value.dtype}; this optimizer keeps {tuple(slot.shape)} "
            f"and {slot.dtype}"
        )
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        raise HybridOptError(f"{what} is not dense, or has no values ({value.layout}, {value.device}); {CURE}")
    _check_sharding(what, value, p)
    if not value.is_floating_point():
        return
    if finite and not bool(whole(value.isfinite().all())):
        raise HybridOptError(
            f"{what} has NaN or infinity, which would reach the weights; load an earlier state (an optimizer with "
            "nonfinite='ignore' takes it)"
        )
    if not slot.signed and bool(whole((value < 0).any())):
        raise HybridOptError(f"{what} has negative entries, and is a mean of squares, or of sizes; {CURE}")


def check_basis(name: str, job: Job, state: Mapping[str, Tensor], window: int) -> None:
    """Raise HybridOptError for a saved basis of a split that the split cannot have made.

    Args:
        name: of the parameter.
        job: of the parameter, in the window.
        state: the saved state, of which all tensors are checked already.
        window: in which the basis was made.
    """
    basis = {own: local(state[raw]) for own, raw in job.basis.items() if raw in state}
    if basis and len(basis) == len(job.basis) and (flaw := job.part.flaw(job.shape, basis, window)):
        raise HybridOptError(f"the saved state of {name!r} does not fit its split ({BASIS}...): {flaw}")


def _check_sharding(what: str, value: Tensor, p: Tensor) -> None:
    if not is_sharded(p) and hasattr(value, "__tensor_flatten__"):
        cure = "full_tensor()" if is_sharded(value) else "dequantize() or another conversion"
        raise HybridOptError(f"{what} is a {type(value).__name__}, and the parameter a plain tensor: take its {cure}")


def _finite(value: object, depth: int = 0) -> bool:
    """Return whether a value in a param group has neither NaN nor infinity in it, nor itself."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        return depth < DEEPEST and all(_finite(item, depth + 1) for item in value)
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        dense = value.layout == torch.strided and not value.is_meta
        return dense and bool(whole(value.detach().isfinite().all()))
    return True
