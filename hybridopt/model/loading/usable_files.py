"""Which weights of layers can be used in the very files that hold them, and why others cannot."""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from ...core.errors import HybridOptError
from ...core.files.mapping import Extent
from ..quantization.layers import is_named
from .mapped_source import MappedSource
from .matching import Match

__all__ = ["InFiles"]

LOADED = 16  # bytes: kernels of a CPU add in another order where a row of float32 begins between


class InFiles:
    """Where the weights of layers lie, if a file holds them as they are used.

    Args:
        found: what the model is made of.
        names: of the weights.
        dtypes: of the model's tensors once they are filled in, by name.
        quantized: names of the weights that are quantized.
        exact: leave out floats of 32 bits that lie where a product with a single row has other last bits.
    """

    def __init__(
        self,
        found: Match,
        names: Collection[str],
        dtypes: Mapping[str, torch.dtype],
        quantized: Collection[str] = (),
        exact: bool = False,
    ):
        self.names, self._dtypes, self._quantized = sorted(names), dtypes, set(quantized)
        self._exact = exact
        self.source = MappedSource() if sys.platform == "linux" else None
        self._stored = {name: entry for name, entry in found.as_stored().items() if name in set(names)}
        self.why_not = {name: why for name in self.names if (why := self._why_not(name)) is not None}
        there = [] if self.source is None else [name for name in self.names if name not in self.why_not]
        self.extents: dict[str, tuple[Path, Extent]] = {name: self._place(name) for name in there}

    def check(self) -> None:
        """Raise HybridOptError if any weight is in no file as it is used."""
        if self.why_not:
            name, why = next(iter(self.why_not.items()))
            raise HybridOptError(
                f"{name!r} ({len(self.why_not)} of {len(self.names)} weights) {why}: no file holds it as it is used. "
                "Give a folder to keep such weights in: placement=Placement('disk', cache=FOLDER)",
                "placement",
            )

    def _place(self, name: str) -> tuple[Path, Extent]:
        assert self.source is not None  # else nothing is in files
        return self._stored[name].file, self.source.extent(self._stored[name])

    def _why_not(self, name: str) -> str | None:
        entry = self._stored.get(name)
        if is_named(name, self._quantized):
            return "is quantized while it is read"
        if entry is None:
            return "is made of several stored tensors, or of a part of one"
        if entry.dtype != self._dtypes[name]:
            return f"is stored as {entry.dtype} and used as {self._dtypes[name]}"
        if self.source is None:
            return f"cannot be used in its file on {sys.platform}"
        if not self.source.mappable(entry):
            return f"lies in {entry.file.name} at a place that is no multiple of its item size"
        if self._exact and entry.dtype.itemsize >= 4 and self.source.extent(entry)[0] % LOADED:
            return f"lies in {entry.file.name} at a place that is no multiple of {LOADED} bytes"
        return None
