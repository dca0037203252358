"""What is written of a live model: its tensors under the names and in the form that transformers stores them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.errors import HybridOptError
from ..merging.outputs import Written
from .values import Value

__all__ = ["outputs", "written_names"]

Forms = dict[str, tuple[tuple[int, ...], torch.dtype]]


def outputs(model: Any, found: Sequence[Value]) -> list[Written]:
    """Return what is written of a model; a tensor of its own for each stored one, tied ones once.

    transformers joins some stored tensors when it loads them (experts, queries with keys and values); these are taken
    apart again, those of one layer at a time.

    Args:
        model: a transformers model.
        found: its tensors.
    """
    named = {name: value for value in found for name in written_names(model, value.names)}
    empty = {n: torch.empty(value.shape, dtype=value.dtype, device="meta") for n, value in named.items()}
    wanted = _forms(_reverted(model, empty))
    if wanted == _forms(empty):
        return [_output(name, value) for name, value in named.items()]
    made: dict[str, Written] = {}
    for names, forms in _groups(model, empty, wanted):
        pieces = _Pieces(model, {name: named[name].make for name in names})
        made |= {n: Written(n, *form, partial(pieces, n), True) for n, form in forms.items()}
    return list(made.values())


def written_names(model: Any, names: tuple[str, ...]) -> list[str]:
    """Return under which of its names a tensor is written: those that the configuration does not tie to another."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    own = [name for name in names if name not in ignored]
    return [name for name in own if name not in tied] or own[:1]


def _output(name: str, value: Value) -> Written:
    return Written(name, value.shape, value.dtype, value.make, True)


def _forms(tensors: Mapping[str, Tensor]) -> Forms:
    return {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()}


def _groups(model: Any, empty: dict[str, Tensor], wanted: Forms) -> list[tuple[list[str], Forms]]:
    """Return which tensors of the model have to be there together to make which stored ones, as few as possible."""
    found: list[tuple[list[str], Forms]] = []
    left = dict(wanted)
    rest: dict[str, list[str]] = {}
    for name in empty:
        if not _take(model, empty, [name], left, found):
            layer = max((i for i, part in enumerate(name.split(".")) if part.isdigit()), default=-1)
            rest.setdefault(".".join(name.split(".")[: layer + 1]), []).append(name)
    still = [n for names in rest.values() if not _take(model, empty, names, left, found) for n in names]
    if still and not _take(model, empty, still, left, found):
        raise HybridOptError(f"{still[0]!r}: transformers does not turn it back into what is stored of it")
    return found


def _take(
    model: Any, empty: dict[str, Tensor], names: list[str], left: Forms, found: list[tuple[list[str], Forms]]
) -> bool:
    """Note a group of tensors if they alone make stored ones, and all that these are made of is in it."""
    try:
        forms = _forms(_reverted(model, {name: empty[name] for name in names}))
    except HybridOptError:
        return False
    if not forms or any(left.get(name) != form for name, form in forms.items()):
        return False
    for name in forms:
        del left[name]
    found.append((names, forms))
    return True


class _Pieces:
    """Stored tensors that are made together, kept only until each was asked for."""

    def __init__(self, model: Any, makers: Mapping[str, Callable[[], Tensor]]):
        self.model, self.makers = model, makers
        self.made: dict[str, Tensor] = {}

    def __call__(self, name: str) -> Tensor:
        if name not in self.made:
            self.made = dict(_reverted(self.model, {each: make() for each, make in self.makers.items()}))
        return self.made.pop(name)


def _reverted(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    from transformers.core_model_loading import revert_weight_conversion

    try:
        return dict(revert_weight_conversion(model, dict(tensors)))
    except Exception as error:  # conversions raise what torch raises
        first = next(iter(tensors))
        raise HybridOptError(f"{first!r} cannot be turned back into what is stored of it: {error!s:.300}") from error
