"""Dtype, device and shape of an optimizer's parameters: what their state was made for."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ...core.errors import HybridOptError
from ...model.fsdp.sharded_tensors import is_sharded
from ...model.placement.homes import devices_of
from ...model.roles import codes_dtype
from ...policy.job import declare
from ..groups.tags import Tags, named
from ..windows.windows import Windows

__all__ = ["AGAIN", "Conversions", "check_shape"]

Form = tuple[torch.dtype, torch.device, torch.Size]
AGAIN = "make a new optimizer, by model.hybrid.optimizer(...) where the model was wrapped"


class Conversions:
    """What `module.to(...)`, and assignments to `data`, change of a parameter that stays the same object."""

    def __init__(self):
        self._known: dict[str, Form] = {}  # of all that took part when it was last looked at
        self._list: list[Form] = []

    def changed(self, params: Iterable[Tensor]) -> bool:
        """Return whether any parameter has another form than at the last `settle`."""
        return _forms(list(params)) != self._list

    def check(self, tags: Tags, groups: list[dict], busy: Mapping[str, Tensor]) -> None:
        """Raise HybridOptError for a parameter that cannot be trained as it is now; nothing is changed.

        Args:
            tags: the treatments of the groups.
            groups: the param groups of the optimizer.
            busy: the parameters that take part in training, by name.
        """
        for group in tags.sections(groups):
            treatment = tags.treatment(group)
            for name in group["param_names"]:
                p = busy.get(name)
                if p is None:
                    continue
                if treatment.store_for(codes_dtype(p) or p.dtype) is None:
                    raise HybridOptError(
                        f"parameter {name!r} has dtype {p.dtype} now, which its store does not keep; convert it to "
                        "float32, bfloat16 or float16, or set its requires_grad to False and its grad to None"
                    )
                _check_form(name, self._known.get(name), p)

    def settle(self, windows: Windows, states: dict, busy: Mapping[str, Tensor]) -> list[str]:
        """Bring state to the devices of its parameters, and to the dtypes of their arithmetic.

        Args:
            windows: the parameters as they are trained now.
            states: its state, by parameter.
            busy: the parameters that take part, by name; what is frozen may be anything meanwhile.

        Returns:
            The names of those that have changed since the last time.
        """
        found = []
        for group in windows.sections:
            for (name, p), form in zip(named(group), _forms(group["params"]), strict=True):
                known = self._known.get(name)
                if name in busy and form != known:
                    if states.get(p):
                        states[p] = _moved(windows, group, name, p, states[p])
                    self._known[name] = form
                    found += [name] if known else []
        held = [pair for group in windows.sections for pair in named(group)]
        forms = _forms([p for _, p in held])
        self._list = [self._known.get(name, form) for (name, _), form in zip(held, forms, strict=True)]
        return found


def _forms(params: Sequence[Tensor]) -> list[Form]:
    return [(p.dtype, device, p.shape) for p, device in zip(params, devices_of(params), strict=True)]


def check_shape(name: str, before: torch.Size, p: Tensor) -> None:
    """Raise HybridOptError if a parameter has another shape than its treatment and its state were made for.

    Args:
        name: of the parameter.
        before: its shape then.
        p: the parameter, or what has taken its place.
    """
    if before != p.shape:
        raise HybridOptError(
            f"parameter {name!r} had shape {tuple(before)} in this optimizer, and has {tuple(p.shape)} in the model "
            f"now, which its state does not fit; nothing was changed: {AGAIN}"
        )


def _check_form(name, known, p):
    if known:
        check_shape(name, known[2], p)
    if p.is_meta and known and known[1].type != "meta":
        raise HybridOptError(
            f"parameter {name!r} is on the meta device now, without values; nothing was changed. Move it to a device "
            "(to_empty), and load its values, before the next step"
        )
    if p.grad is not None and p.grad.shape != p.shape:
        raise HybridOptError(
            f"parameter {name!r} has shape {tuple(p.shape)}, and a gradient of shape {tuple(p.grad.shape)} from "
            "before its data was replaced; nothing was changed. Call zero_grad(), then backward() again"
        )


def _moved(windows, group, name, p, state):
    """Return a parameter's state on its device, and in the dtypes that go with its own."""
    wanted = declare(windows.saved_job(group, name, p, state["window"]))
    dtypes = {key: slot.dtype for key, slot in wanted.items()}
    return {key: _fitted(x, p, dtypes.get(key, x.dtype)) if isinstance(x, Tensor) else x for key, x in state.items()}


def _fitted(x, p, dtype):
    """Return a tensor of the state; numbers are converted, codes and indices are not."""
    numbers = dtype.is_floating_point and x.is_floating_point()
    return x.to(x.device if is_sharded(x) or x.is_meta else p.device, dtype if numbers else x.dtype)
