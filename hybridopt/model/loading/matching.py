"""Which stored tensors make which tensors of a model, by transformers' own table of renamed and merged weights."""

import copy
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import HybridOptError
from .weight_files import Stored, read

__all__ = ["Match", "match", "shared_names"]

Place = Callable[[str, Tensor, bool], Tensor]  # name, tensor, must it be copied? -> the tensor where it belongs
Read = Callable[[Stored], Tensor]
Done = Callable[[Stored], None]
RENAMING = "WeightRenaming"  # transformers' conversion that does nothing but that
OLD = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")  # buffers that checkpoints used to hold
LISTED = 3


@dataclass(frozen=True)
class Match:
    """What a model's tensors are made of, by the first tensor that is made, in the model's order.

    Args:
        model: on the meta device.
        sources: the stored tensors of each entry, with the pattern of the conversion that wants it.
        conversions: transformers' conversion of each entry.
        made: the shapes of the tensors that each entry makes, by name.
    """

    model: nn.Module
    sources: dict[str, list[tuple[Stored, str]]]  # with the pattern of the conversion that wants it
    conversions: dict[str, Any]
    made: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)

    def tensors(
        self, place: Place, reader: Read | None = None, done: Done | None = None, there: Collection[str] = ()
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of every tensor, each made when it is asked for; none is kept here.

        Args:
            place: called with name, tensor, and whether that still lies in a file; returns it where it belongs.
            reader: returns a stored tensor; None: as its file has it.
            done: is told of every stored tensor once what it makes was yielded and the next value is asked for.
            there: names of tensors that are not wanted.
        """
        for first in (each for each in self.sources if not self.made[each].keys() <= set(there)):
            inputs = [(reader or read)(entry) for entry, _ in self.sources[first]]
            mapped = {x.untyped_storage().data_ptr() for x in inputs}
            values = self.convert(first, inputs)
            inputs.clear()
            for name in list(values):
                yield name, place(name, *_with_origin(values.pop(name), mapped))
            if done is not None:
                for entry, _ in self.sources[first]:
                    done(entry)

    def as_stored(self) -> dict[str, Stored]:
        """Return the tensors that are stored ones with nothing done to them but a cast, by name."""
        alone = {first: each[0][0] for first, each in self.sources.items() if len(each) == 1}
        return {
            first: entry
            for first, entry in alone.items()
            if type(self.conversions[first]).__name__ == RENAMING and self.made[first] == {first: entry.shape}
        }

    def convert(self, first: str, inputs: list[Tensor]) -> dict[str, Tensor | list[Tensor]]:
        """Return what transformers makes of the stored tensors of one entry, by name."""
        conversion = copy.deepcopy(self.conversions[first])
        for (entry, pattern), tensor in zip(self.sources[first], inputs, strict=True):
            conversion.add_tensor(first, entry.name, pattern, tensor)
        return conversion.convert(first, model=self.model, config=self.model.config)


def match(model: nn.Module, stored: dict[str, Stored], held: Collection[str] = (), other_head: bool = False) -> Match:
    """Pair a model on the meta device with what is stored.

    Args:
        model: on the meta device.
        stored: where the tensors are stored.
        held: names of tensors that may be missing, as their values come from elsewhere.
        other_head: may tensors be left over, as the model has another output layer than the one that was stored? Those
            of layers that the model has not are none of an output layer.

    Raises:
        HybridOptError: if tensors are missing, left over, or of another shape than the model has.
    """
    found, unexpected = _paired(model, stored)
    state = model.state_dict(keep_vars=True)
    for first in found.sources:
        found.made[first] = {name: tuple(shape) for name, shape in _shapes(found, first).items()}
    made = {name: shape for each in found.made.values() for name, shape in each.items()}
    left = _of_layers(model, unexpected) if other_head else unexpected
    _refuse("has no place for", left + sorted(made.keys() - state.keys()), model, "config.json is another model's")
    _check_shapes(state, made)
    known = made.keys() | set(held)
    missing = [names[0] for names in shared_names(model) if not known & set(names)]
    allowed = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    _refuse("finds no", [n for n in missing if not _fits(n, allowed)], model, "copy it again, or correct config.json")
    return found


def _of_layers(model: Any, names: list[str]) -> list[str]:
    """Return the names that are numbered as the layers of a list of the model are, below its output layer or alone."""
    lists = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    beginnings = ("", f"{model.base_model_prefix}.")
    numbered = ((name, re.match(r"(.+?)\.\d+\.", name)) for name in names)
    return [name for name, part in numbered if part and any(begin + part[1] in lists for begin in beginnings)]


def shared_names(model: nn.Module) -> list[list[str]]:
    """Return the names of every tensor of the state dict, together where weights are tied."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def _paired(model, stored) -> tuple[Match, list[str]]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    table, state = get_model_conversion_mapping(model), model.state_dict()
    renamings = [each for each in table if isinstance(each, WeightRenaming)]
    converters = [each for each in table if isinstance(each, WeightConverter)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    found, unexpected = Match(model, {}, {}), []
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, state)
        if name not in state and key in state:  # a name that only looks like one of those to be changed
            name, pattern = key, None
        if name not in state or (pattern is None and name in found.sources):
            unexpected += [] if _fits(key, _ignorable(model)) else [key]
            continue
        found.sources.setdefault(name, []).append((stored[key], pattern or key))
        found.conversions.setdefault(name, by_pattern[pattern] if pattern else WeightRenaming(key, name))
    return found, unexpected


def _with_origin(value: Tensor | list[Tensor], mapped: set[int]) -> tuple[Tensor, bool]:
    """Return a made tensor, and whether it still lies in a file (`mapped`: addresses of tensors that do)."""
    value = value[0] if isinstance(value, list) else value
    return value, value.untyped_storage().data_ptr() in mapped


def _shapes(found: Match, first: str) -> dict[str, torch.Size]:
    """Return the shapes of what an entry makes, by name, found by making it without memory."""
    inputs = [torch.empty(e.shape, dtype=e.dtype, device="meta") for e, _ in found.sources[first]]
    try:
        made = found.convert(first, inputs)
    except Exception as error:  # conversions raise what torch raises
        names = ", ".join(repr(e.name) for e, _ in found.sources[first][:LISTED])
        raise HybridOptError(f"{first!r} cannot be made of the stored {names}: {error}") from error
    return {name: (x[0] if isinstance(x, list) else x).shape for name, x in made.items()}


def _check_shapes(state, made) -> None:
    for name, shape in made.items():
        if tuple(state[name].shape) != shape:
            raise HybridOptError(
                f"{name!r} is stored with shape {shape}, and the model of this config.json has "
                f"{tuple(state[name].shape)}; weights and config.json belong to different models"
            )


def _refuse(what: str, names: list[str], model, cure: str) -> None:
    if names:
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        listed = ", ".join(map(repr, names[:LISTED]))
        raise HybridOptError(f"{type(model).__name__} {what} {listed}{more} in the folder; {cure}")


def _ignorable(model) -> tuple[str, ...]:
    return (*OLD, *(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()))


def _fits(name: str, patterns) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)
