"""Layers that come to rest one by one while a model is filled, so that it is never whole where it does not rest."""

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.contracts import PlacedUnit, Scheme
from ...core.errors import HybridOptError
from ...core.files.mapping import Extent
from ..placement.placement import Placement
from ..placement.placing import Placing
from ..placement.unit_files import UnitFiles
from ..placement.units import pieces, units
from ..quantization.layers import is_named
from .keeping import Keeping
from .mapped_source import MappedSource
from .matching import Match
from .weight_files import Stored, read

__all__ = ["Resting"]


class Resting:
    """Lets every layer rest as soon as the last of its values is in its place.

    Args:
        model: on the meta device, to be filled.
        found: what it is made of.
        dtypes: of its tensors once they are filled in, by name.
        placement: where the layers rest; "host" or "disk".
        device: that computes.
        layers: names of the weights that are quantized.
        scheme: what they are quantized with.
        files: where weights are kept that no file of the base holds as they are used; None: nowhere.

    Raises:
        HybridOptError: a layer is to be read from disk while it is used, and no file holds it as it is used.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Match,
        dtypes: Mapping[str, torch.dtype],
        placement: Placement,
        device: torch.device,
        layers: Collection[str] = (),
        scheme: Scheme | None = None,
        files: UnitFiles | None = None,
    ):
        self._model, self._device, self._dtypes, self._quantized = model, device, dtypes, set(layers)
        self._source = MappedSource() if sys.platform == "linux" else None
        self._placing = Placing(model, placement, device)
        self._units = units(model, placement.resident)
        self._names = {piece.name for unit in self._units for piece in unit.pieces}
        self._stored = {name: entry for name, entry in found.as_stored().items() if name in self._names}
        self._extents = self._in_files()
        self._keeping: Keeping | None = None
        self.there: set[str] = set()  # names of tensors that have their values before any is read
        if placement.base == "disk":
            if files is None:
                self._check_in_files()
            else:
                wanted = {unit: self._wanted(unit, found, scheme) for unit in self._units}
                wanted = {unit: names for unit, names in wanted.items() if names}
                self._keeping = Keeping(files, model, scheme, layers, wanted, device)
        self._left = _by_unit(self._units, (name for each in found.made.values() for name in each))
        self._of = {name: unit for unit, names in self._left.items() for name in names}

    @contextmanager
    def open(self) -> Iterator["Resting"]:
        """Take what is kept already, keep other processes from writing the same, and let all rest in the end."""
        if self._keeping is None:
            yield self
        else:
            with self._keeping.open() as there:
                self.there = set(there)
                for name in there:
                    self.filled(name)
                yield self
        self._placing.finish()

    def read(self, entry: Stored) -> Tensor:
        """Return a stored tensor without memory of its own, if it lies where it can be used."""
        return read(entry) if self._source is None else self._source.read(entry)

    def done(self, entry: Stored) -> None:
        """Take no memory for a stored tensor any more."""
        if self._source is not None:
            self._source.drop(entry)

    def place(self, name: str, value: Tensor, copied: bool) -> Tensor:
        """Return a value where it belongs until its layer rests: as it lies in its file, or on the device.

        Args:
            name: of the tensor.
            value: in the dtype in which it is stored.
            copied: does it lie in a file?
        """
        dtype = self._dtypes[name]
        if name not in self._names:
            return value.to(self._device, dtype, copy=copied)
        return value.to(self._device if is_named(name, self._quantized) else "cpu", dtype)

    def filled(self, name: str) -> None:
        """Note that a value is in its place; let its layer rest if it was the last one."""
        unit = self._of.get(name)
        if unit is None:
            return
        self._left[unit].discard(name)
        if not self._left[unit]:
            unit.module = self._model.get_submodule(unit.name)
            unit.pieces = pieces(self._model, unit)
            if self._keeping is not None:
                self._keeping.keep(unit)
            self._placing.rest(unit, self._extents | (self._keeping.extents() if self._keeping else {}))

    def _wanted(self, unit: PlacedUnit, found: Match, scheme: Scheme | None) -> dict[str, int]:
        """Return the names of the weights of a unit that no file holds as they are used, with their bytes."""
        shapes = {name: shape for each in found.made.values() for name, shape in each.items()}
        names = [piece.name for piece in unit.pieces if piece.name not in self._extents]
        sizes = {name: math.prod(shapes[name]) * self._dtypes[name].itemsize for name in names}
        if scheme is not None:
            sizes |= {name: scheme.nbytes(shapes[name]) for name in names if is_named(name, self._quantized)}
        return sizes

    def _in_files(self) -> dict[str, tuple[Path, Extent]]:
        """Return file and bytes of the tensors that a file holds as they are used, by name."""
        if self._source is None:
            return {}
        source = self._source
        return {
            name: (entry.file, source.extent(entry))
            for name, entry in self._stored.items()
            if self._why_not(name) is None
        }

    def _why_not(self, name: str) -> str | None:
        """Return why the file of a tensor cannot be used in the place of memory; None where it can."""
        entry = self._stored.get(name)
        if is_named(name, self._quantized):
            return "is quantized while it is read"
        if entry is None:
            return "is made of several stored tensors, or of a part of one"
        if entry.dtype != self._dtypes[name]:
            return f"is stored as {entry.dtype} and used as {self._dtypes[name]}"
        if self._source is None or not self._source.mappable(entry):
            return f"lies in {entry.file.name} at a place that is no multiple of its item size"
        return None

    def _check_in_files(self) -> None:
        odd = [name for name in sorted(self._names) if name not in self._extents]
        if odd:
            raise HybridOptError(
                f"{odd[0]!r} ({len(odd)} of {len(self._names)} weights) {self._why_not(odd[0])}: no file holds it as "
                "it is used. Give a folder to keep such weights in: placement=Placement('disk', cache=FOLDER)",
                "placement",
            )


def _by_unit(found: Iterable[PlacedUnit], names: Iterable[str]) -> dict[PlacedUnit, set[str]]:
    """Return the names of the tensors beneath each unit."""
    prefixes = {f"{unit.name}.": unit for unit in found}
    within: dict[PlacedUnit, set[str]] = {}
    for name in names:
        unit = next((unit for prefix, unit in prefixes.items() if name.startswith(prefix)), None)
        if unit is not None:
            within.setdefault(unit, set()).add(name)
    return within
