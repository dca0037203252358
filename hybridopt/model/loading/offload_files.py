"""Weights of layers that no file of the base holds as they are used: kept in files of their own, and found there."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.contracts import PackedWeight, Piece, PlacedUnit, Scheme
from ...core.errors import HybridOptError
from ...core.files.mapping import Extent, MappedFile
from ...core.version import installed
from ..placement.storage.unit_files import KeptTensor, UnitFiles
from ..quantization.replacing import assemble_
from .materializing import fill
from .weight_files import Stored

__all__ = ["Keeping", "key_of"]

PART = ":"  # between the name of a quantized weight and that of a part of it


def key_of(
    folder: Path, stored: Iterable[Stored], model: Any, scheme: Scheme | None, layers: Collection[str], device: str
) -> dict[str, Any]:
    """Return what the weights of a model that is loaded follow from.

    Args:
        folder: of the base.
        stored: its tensors; their files are known by name, size and time.
        model: of transformers; its dtype counts.
        scheme: what it is quantized with.
        layers: names of the weights that are.
        device: on which they are.
    """
    files = sorted({folder.absolute() / "config.json", *(entry.file for entry in stored)})
    states = [(file, file.stat()) for file in files]
    library = "" if scheme is None or not scheme.library else f"{scheme.library} {installed(scheme.library)}"
    return {
        "files": [[file.name, state.st_size, state.st_mtime_ns] for file, state in states],
        "dtype": str(model.dtype),
        "quantization": None if scheme is None else scheme.name,
        "layers": hashlib.sha256("\n".join(sorted(layers)).encode()).hexdigest(),
        "device": device,
        "versions": [f"transformers {installed('transformers')}", library],
    }


class Keeping:
    """What a cache has of the layers of a model, and gets while it is loaded.

    Args:
        files: of the cache.
        model: that is filled.
        scheme: what it is quantized with.
        layers: names of the weights that are quantized.
        wanted: by unit, the names of the weights that no other file holds as they are used, with their bytes.
        device: that computes.
    """

    def __init__(
        self,
        files: UnitFiles,
        model: nn.Module,
        scheme: Scheme | None,
        layers: Collection[str],
        wanted: Mapping[PlacedUnit, Mapping[str, int]],
        device: torch.device,
    ):
        self._files, self._model, self._scheme, self._device = files, model, scheme, device
        self._layers, self._wanted = set(layers), wanted
        self._tables: dict[bytes, Tensor] = {}  # small parts that many weights have alike
        self.held: dict[str, KeptTensor] = {}  # by the names of pieces

    @contextmanager
    def open(self) -> Iterator[list[str]]:
        """Put all layers that are there into the model; yield the names of their weights; keep other processes away.

        Raises:
            HybridOptError: what is there is damaged, or the disk has no room for what is not.
        """
        with self._files.alone():
            there = {unit: self._files.find(unit.name) for unit in self._wanted}
            missing = [unit for unit, held in there.items() if held is None]
            if missing:
                self._files.room(sum(size for unit in missing for size in self._wanted[unit].values()))
            yield [name for unit, held in there.items() if held is not None for name in self._put(unit, held)]

    def keep(self, unit: PlacedUnit) -> None:
        """Write the weights of a layer that are wanted and not there yet."""
        names = [name for name in self._wanted.get(unit, ()) if not self._known(name)]
        tensors = {key: x for name in names for key, x in self._parts(name).items()}
        if tensors:
            self._note(self._files.write(unit.name, tensors))

    def describe(self, piece: Piece) -> None:
        """Note in a piece what its file says of it, if it is in the cache."""
        if (held := self.held.get(piece.name)) is not None:
            piece.checksum, piece.crc32 = held.checksum, held.crc32

    def extents(self) -> dict[str, tuple[Path, Extent]]:
        """Return file and bytes of every tensor that is in the cache, by the names of pieces."""
        return {name: (each.file, each.extent) for name, each in self.held.items()}

    def _known(self, name: str) -> bool:
        return name in self.held or f"{name}.codes" in self.held

    def _note(self, held: Mapping[str, KeptTensor]) -> None:
        for key, each in held.items():
            name, _, part = key.partition(PART)
            self.held[f"{name}.{part}" if part else name] = each
            if part == "codes":
                self.held[name] = each

    def _target(self, name: str) -> str | None:
        """Return what a weight is called among those that are quantized; None for the others."""
        return next((each for each in (name, name.removesuffix(".weight")) if each in self._layers), None)

    def _parts(self, name: str) -> dict[str, Tensor]:
        path, _, member = name.rpartition(".")
        module: Any = self._model.get_submodule(path)
        weight = module._parameters[member]
        if self._scheme is None or self._target(name) is None:
            return {name: weight.detach()}
        kept = weight.parts() if isinstance(weight, PackedWeight) else self._scheme.kept(module)
        return {f"{name}{PART}{part}": x.detach() for part, x in kept.items()}

    def _put(self, unit: PlacedUnit, held: Mapping[str, KeptTensor]) -> list[str]:
        """Put the weights of a layer into the model, and return their names."""
        names = list(self._wanted[unit])
        if {key.partition(PART)[0] for key in held} != set(names):
            raise HybridOptError(
                f"{next(iter(held.values())).file} does not hold the weights that {unit.name!r} needs; delete its "
                "folder, and load again",
                "placement",
            )
        files: dict[Path, MappedFile] = {}
        kept: dict[str, dict[str, Tensor]] = {}
        for key, each in held.items():
            name, _, part = key.partition(PART)
            file = files[each.file] = files.get(each.file) or MappedFile(each.file)
            kept.setdefault(name, {})[part] = self._tensor(file, each, part)
        for name, parts in kept.items():
            target = self._target(name)
            if target is None or self._scheme is None:
                fill(self._model, [(name, parts[""])])
            else:
                assemble_(self._model, self._scheme, target, parts)
        self._note(held)
        return names

    def _tensor(self, file: MappedFile, held: KeptTensor, part: str) -> Tensor:
        x = file.tensor(held.extent, held.shape, held.dtype)
        small = part and (not x.ndim or not x.numel() or (self._scheme is not None and part in self._scheme.tables))
        if not small:
            return x
        key = f"{part}{held.dtype}{held.shape}".encode() + bytes(x.reshape(-1).view(torch.uint8).tolist())
        return self._tables.setdefault(key, x.to(self._device, copy=True))
