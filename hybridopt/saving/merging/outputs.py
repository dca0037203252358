"""The tensors of a merged model: their names and shapes in its files, and how each is made when it is written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.contracts import Merging
from ...core.errors import HybridOptError
from ...model.loading.building import kept_in_fp32
from ...model.loading.weight_files import read
from .values import Values

__all__ = ["Written", "Outputs"]


@dataclass(frozen=True)
class Written:
    """A tensor that is written.

    Args:
        name: in the file.
        shape: of the tensor.
        dtype: of the tensor.
        make: returns it.
        changed: has training changed it?
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]
    changed: bool


class Outputs:
    """What is written of a merged model, under the names that its base stores; `untied` if ties end.

    Args:
        model: without memory, without adapters.
        values: the trained tensors of the base.
        merging: the adapters; None: there are none.
        dtype: of all floats but those that transformers keeps in float32.
    """

    def __init__(self, model: Any, values: Values, merging: Merging | None, dtype: torch.dtype):
        self.model, self.values, self.merging, self.dtype = model, values, merging, dtype
        self.state = model.state_dict(keep_vars=True)
        self.fp32 = kept_in_fp32(model)
        self.merged = set() if merging is None else set(merging.names) & self.state.keys()
        self.changed = (self.merged | values.names) & self.state.keys()
        self.split = {n for n in self.merged if merging is not None and len(merging.groups(n)) > 1}
        self.split = {tied for name in self.split for tied in values.ties[name]}
        self._pieces: dict[str, Tensor] = {}

    @property
    def untied(self) -> bool:
        """Whether tensors that were tied are no longer the same."""
        return bool(self.split)

    def __iter__(self) -> Iterator[Written]:
        done: set[str] = set()
        for first, sources in self.values.match.sources.items():
            made = self.values.match.made[first]
            done |= made.keys()
            if not made.keys() & self.changed:
                for entry, _ in sources:
                    yield self._output(entry.name, first, entry.shape, entry.dtype, lambda e=entry: read(e), False)
            elif len(sources) == 1 == len(made) and sources[0][0].shape == made[first]:
                yield self._own(first, sources[0][0].name)
            else:
                yield from self._reverted(first, made)
        for name in self.state:
            known = name in self.split or not done & set(self.values.ties[name])
            if name not in done and known and (name in self.changed or self.values.has(name)):
                done.add(name)
                yield self._own(name, name)

    def value(self, name: str) -> Tensor:
        """Return a tensor of the model as it is written, but for its dtype."""
        if self.merging is not None and name in self.merged:
            return self.merging.value(name, self.values)
        return self.values(name)

    def _own(self, name: str, written: str) -> Written:
        x = self.state[name]
        return self._output(written, name, tuple(x.shape), x.dtype, lambda: self.value(name), name in self.changed)

    def _output(self, written: str, name: str, shape: Any, dtype: torch.dtype, make: Any, changed: bool) -> Written:
        keep = any(part in name for part in self.fp32)
        target = (torch.float32 if keep else self.dtype) if dtype.is_floating_point else dtype
        return Written(written, tuple(shape), target, lambda: _rounded(written, make(), target), changed)

    def _reverted(self, first: str, made: dict[str, tuple[int, ...]]) -> Iterator[Written]:
        """Yield the stored tensors of a changed tensor that transformers joins or splits when it loads them."""
        empty = {name: torch.empty(shape, dtype=self.state[name].dtype, device="meta") for name, shape in made.items()}
        pieces = self._revert(first, empty)
        wanted = {entry.name: entry for entry, _ in self.values.match.sources[first]}
        if {n: tuple(x.shape) for n, x in pieces.items()} != {n: e.shape for n, e in wanted.items()}:
            raise HybridOptError(
                f"{first!r} is stored as {', '.join(sorted(wanted)[:3])}, and transformers does not turn it back into "
                "that; save the base as transformers does (model.save_pretrained) and merge into that"
            )
        for name, x in pieces.items():
            yield self._output(name, first, x.shape, x.dtype, lambda n=name: self._piece(n, first, made), True)

    def _piece(self, name: str, first: str, made: dict[str, tuple[int, ...]]) -> Tensor:
        if name not in self._pieces:
            self._pieces = dict(self._revert(first, {each: self.value(each) for each in made}))
        return self._pieces.pop(name)

    def _revert(self, first: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
        from transformers.core_model_loading import revert_weight_conversion

        try:
            return revert_weight_conversion(self.model, values)
        except Exception as error:  # conversions raise what torch raises
            raise HybridOptError(f"{first!r} cannot be turned back into what is stored of it: {error}") from error


def _rounded(name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in the dtype that is written; raise HybridOptError for what is not finite, or overflows."""
    found = x.detach().to(dtype)
    if found.is_floating_point() and not torch.isfinite(found).all():
        cure = "take --dtype bfloat16" if torch.isfinite(x).all() else "training has diverged, or a file is damaged"
        raise HybridOptError(f"{name!r} is infinite or NaN in {str(dtype).removeprefix('torch.')}; {cure}")
    return found
