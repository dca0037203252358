"""Layers that come to rest one by one while a model is filled, so that it is never whole where it does not rest."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from ...core.contracts import PlacedUnit
from ..placement.placement import Placement
from ..placement.placing import Placing
from ..placement.streaming.rows import aside
from ..placement.units import pieces
from ..quantization.layers import is_named
from .filling import Filling
from .offload_files import Keeping
from .usable_files import InFiles
from .weight_files import Stored, read

__all__ = ["RestingLayers"]


class RestingLayers:
    """Lets every layer rest as soon as the last of its values is in its place.

    Args:
        filling: the model, and what it is filled with.
        placement: where the layers rest; "host" or "disk".
        resting: its layers.
        in_files: which weights can be used where they lie.
        keeping: what keeps the others, where they rest on disk.

    Raises:
        HybridOptError: a layer is to be read from disk while it is used, and no file holds it as it is used.
    """

    def __init__(
        self,
        filling: Filling,
        placement: Placement,
        resting: Collection[PlacedUnit],
        in_files: InFiles,
        keeping: Keeping | None = None,
    ):
        self._filling, self._quantized = filling, set(filling.layers)
        self._in_files, self._keeping = in_files, keeping
        if placement.base == "disk" and keeping is None:
            in_files.check()
        self._placing = Placing(filling.model, placement, filling.device)
        self._in_place = placement.base == "disk"  # what a file holds as it is used stays there
        self._table = aside(filling.model, filling.device)
        self._names = {piece.name for unit in resting for piece in unit.pieces}
        self._left = _by_unit(resting, (name for each in filling.found.made.values() for name in each))
        self._of = {name: unit for unit, names in self._left.items() for name in names}
        self.there: set[str] = set()  # names of tensors that have their values before any is read

    @contextmanager
    def open(self) -> Iterator["RestingLayers"]:
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
        return read(entry) if self._in_files.source is None else self._in_files.source.read(entry)

    def done(self, entry: Stored) -> None:
        """Take no memory for a stored tensor any more."""
        if self._in_files.source is not None:
            self._in_files.source.drop(entry)

    def place(self, name: str, value: Tensor, copied: bool) -> Tensor:
        """Return a value where it belongs until its layer rests: as it lies in its file, or on the device.

        Args:
            name: of the tensor.
            value: in the dtype in which it is stored.
            copied: does it lie in a file?
        """
        dtype, device = self._filling.dtypes[name], self._filling.device
        if name == self._table:
            return value.to("cpu", dtype, copy=copied and not self._in_place)
        if name not in self._names:
            return value.to(device, dtype, copy=copied)
        return value.to(device if is_named(name, self._quantized) else "cpu", dtype)

    def filled(self, name: str) -> None:
        """Note that a value is in its place; let its layer rest if it was the last one."""
        unit = self._of.get(name)
        if unit is None:
            return
        self._left[unit].discard(name)
        if not self._left[unit]:
            unit.module = self._filling.model.get_submodule(unit.name)
            unit.pieces = pieces(self._filling.model, unit)
            if self._keeping is not None:
                self._keeping.keep(unit)
                for piece in unit.pieces:
                    self._keeping.describe(piece)
            self._placing.rest(unit, self._in_files.extents | (self._keeping.extents() if self._keeping else {}))


def _by_unit(found: Iterable[PlacedUnit], names: Iterable[str]) -> dict[PlacedUnit, set[str]]:
    """Return the names of the tensors beneath each unit."""
    prefixes = {f"{unit.name}.": unit for unit in found}
    within: dict[PlacedUnit, set[str]] = {}
    for name in names:
        unit = next((unit for prefix, unit in prefixes.items() if name.startswith(prefix)), None)
        if unit is not None:
            within.setdefault(unit, set()).add(name)
    return within
