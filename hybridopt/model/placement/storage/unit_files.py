"""Weights in the form in which they are used, kept in files of their own, one a layer.

A file is the bytes of tensors one after the other, each at a multiple of 64 bytes, so that it can be mapped; beside it
lies what it holds, as JSON, which is written last: a layer without it is not there.
"""

import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from ....core.errors import HybridOptError
from ....core.files import plain_json
from ....core.files.lock import locked
from ....core.files.mapping import Extent
from ....core.files.paths import path_of
from ....core.files.tensors import flat_bytes
from ....core.sizes import gib
from ...checksums import checksum

__all__ = ["FORMAT", "KeptTensor", "UnitFiles"]

FORMAT = 1
ALIGNED = 64  # bytes: where torch's own memory begins, so that the same kernels compute the same bits
PATIENCE = 86400.0  # seconds: another process may quantize a large model meanwhile
DTYPES = {str(x): x for x in vars(torch).values() if isinstance(x, torch.dtype)}


@dataclass(frozen=True)
class KeptTensor:
    """A tensor in a file of a layer.

    Args:
        file: that holds it.
        extent: its bytes there.
        shape: of it.
        dtype: of it.
        checksum: of its values (`hybridopt.model.checksums`).
        crc32: of its bytes, which is faster.
    """

    file: Path
    extent: Extent
    shape: tuple[int, ...]
    dtype: torch.dtype
    checksum: int
    crc32: int


class UnitFiles:
    """The kept layers of one base, loaded in one way.

    Args:
        root: a folder for those of any number of bases.
        key: what the weights follow from; another base, dtype or version has another key, and files of its own.

    Raises:
        HybridOptError: the folder cannot be made, or holds what is none of this.
    """

    def __init__(self, root: str | os.PathLike, key: Mapping[str, Any]):
        self._key = {"format": FORMAT, **key}
        name = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:24]
        self.folder = path_of(root, "cache").absolute() / name
        with self._errors("made"):
            self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from writing the same files; they wait, and find them."""
        with locked(self.folder, exclusive=True, wait=PATIENCE) as alone:
            for stray in self.folder.glob(".*") if alone else ():
                with suppress(OSError):
                    stray.unlink()
            yield

    def room(self, size: int) -> None:
        """Raise HybridOptError if the disk has not so many bytes left."""
        with self._errors("looked at"):
            free = shutil.disk_usage(self.folder).free
        if free < size:
            raise HybridOptError(
                f"cache={str(self.folder.parent)!r}: {gib(size)} are going to be written there, and the disk has "
                f"{gib(free)}: {gib(size - free)} are missing; free some, or give another folder",
                "placement",
            )

    def find(self, unit: str) -> dict[str, KeptTensor] | None:
        """Return what is kept of a layer, by name; None: nothing is.

        Raises:
            HybridOptError: what is there is damaged.
        """
        described, file = self._places(unit)
        if not described.exists():
            return None
        try:
            data = plain_json.read(described, "the description of a kept layer")
            size = plain_json.take(data, "bytes", int, str(described))
            if data.get("key") != json.loads(json.dumps(self._key)):
                raise HybridOptError("it is of another base, or was loaded in another way")
            if file.stat().st_size != size:
                raise HybridOptError(f"{file.name} has {file.stat().st_size} bytes, and had {size}")
            return {name: _held(file, each) for name, each in data["tensors"].items()}
        except (HybridOptError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(described, str(error)) from error

    def write(self, unit: str, tensors: Mapping[str, Tensor]) -> dict[str, KeptTensor]:
        """Keep a layer; it is there complete or not at all.

        Args:
            unit: its name.
            tensors: by name, on whatever device.

        Raises:
            HybridOptError: the disk is full, or cannot be written.
        """
        described, file = self._places(unit)
        found: dict[str, KeptTensor] = {}
        temporary = self.folder / f".{secrets.token_hex(8)}"
        try:
            with self._errors("written"), open(temporary, "xb", buffering=0) as out:
                place = 0
                for name, x in tensors.items():
                    place += _put(out, bytes(-place % ALIGNED))
                    raw = flat_bytes(x)
                    extent = place, place + _put(out, raw)
                    place = extent[1]
                    number = checksum(x) if x.numel() else 0
                    found[name] = KeptTensor(file, extent, tuple(x.shape), x.dtype, number, zlib.crc32(raw))
                os.fsync(out.fileno())
                os.replace(temporary, file)
            data = {
                "key": self._key,
                "unit": unit,
                "bytes": place,
                "tensors": {name: _described(each) for name, each in found.items()},
            }
            with self._errors("written"):
                plain_json.write(temporary, data)
                os.replace(temporary, described)
        finally:
            with suppress(OSError):
                temporary.unlink()
        return found

    def _places(self, unit: str) -> tuple[Path, Path]:
        name = quote(unit, safe="")
        return self.folder / f"{name}.json", self.folder / f"{name}.weights"

    def _damaged(self, path: Path, why: str) -> HybridOptError:
        return HybridOptError(
            f"{path} is damaged: {why}. Delete the folder {self.folder}, and load again", "placement"
        )

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HybridOptError(
                f"cache={str(self.folder.parent)!r} cannot be {what}: {error}; free its disk, or give another folder",
                "placement",
            ) from error


def _put(out: Any, raw: bytes | memoryview) -> int:
    """Write all bytes to a file without a buffer, and return how many they are."""
    left = memoryview(raw)
    while len(left):
        left = left[out.write(left) :]
    return len(raw)


def _described(held: KeptTensor) -> dict[str, Any]:
    return {
        "dtype": str(held.dtype),
        "shape": list(held.shape),
        "bytes": list(held.extent),
        "checksum": held.checksum,
        "crc32": held.crc32,
    }


def _held(file: Path, data: Mapping[str, Any]) -> KeptTensor:
    low, high = data["bytes"]
    shape, dtype = tuple(data["shape"]), DTYPES[data["dtype"]]
    if high - low != torch.Size(shape).numel() * dtype.itemsize:
        raise HybridOptError(f"bytes {low} to {high} are no tensor of shape {shape} and {dtype}")
    return KeptTensor(file, (low, high), shape, dtype, data["checksum"], data["crc32"])
