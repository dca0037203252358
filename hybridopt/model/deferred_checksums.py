"""Checksums of weights that rest on disk: worked out when they are read anyway, once, not when a model is wrapped."""

import weakref
import zlib
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..core.contracts import PackedWeight
from ..core.errors import HybridOptError
from ..core.files.mapping import Extent, MappedFile, runs
from ..core.files.tensors import flat_bytes
from .checksums import checksum

__all__ = ["LaterChecksum", "checksum_or_later", "number"]

_LATER: Any = WeakIdKeyDictionary()  # by tensor


class LaterChecksum:
    """The checksum of a tensor as it lies in its file; it equals that number, and itself without being read.

    Args:
        tensor: a view of the file.
        file: that holds it.
        extent: its bytes there.
        known: the checksum, where it is known already; None: it is worked out when the values are near.
        crc32: of its bytes, which are held against it when they are read first; None: nothing is known of them.
    """

    def __init__(
        self, tensor: Tensor, file: MappedFile, extent: Extent, known: int | None = None, crc32: int | None = None
    ):
        self._live, self._stored = weakref.ref(tensor), tensor.data
        self._file, self._runs = file, runs([extent])
        self._known, self._crc32, self._asked = known, crc32, False
        _LATER[tensor] = self

    def __eq__(self, other: object) -> bool:
        return self is other or bool(number(self) == number(other))

    __hash__ = None  # type: ignore[assignment]  # it is no number yet

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return number, (self.value(),)

    def ask(self) -> bool:
        """Return whether the tensor is what its file holds; if so, it is summed as soon as it is read."""
        self._asked = self._untouched()
        return self._asked

    def value(self) -> int | None:
        """Return the number; None if the tensor was changed before anybody has read it."""
        if self._known is None and not self._written():
            self._known = checksum(self._stored)
            self.drop()
        return self._known

    def near(self) -> None:
        """Note that the values are in memory: sum them if anybody wants that, and hold them against what is known.

        Raises:
            HybridOptError: they are not what was written.
        """
        if self._crc32 is not None and zlib.crc32(flat_bytes(self._stored)) != self._crc32:
            raise HybridOptError(
                f"{self._file.path} is damaged: it has other bytes than were written. Delete the folder "
                f"{self._file.path.parent}; load again",
                "placement",
            )
        self._crc32 = None
        if self._known is None and self._asked and self._untouched():
            self._known = checksum(self._stored)

    def drop(self) -> None:
        """Take no memory for the values any more."""
        for run in self._runs:
            self._file.drop(run)

    def _untouched(self) -> bool:
        live = self._live()
        return live is not None and live.data_ptr() == self._stored.data_ptr() and not self._written()

    def _written(self) -> bool:
        return any(self._file.written(run) for run in self._runs)


def checksum_or_later(tensor: Tensor) -> Any:
    """Return the checksum of a tensor; of one that rests on disk, and is as it was, what will be its checksum."""
    later = _LATER.get(tensor)
    if later is not None and later.ask():
        return later
    found = checksum(tensor)
    for part in tensor.parts().values() if isinstance(tensor, PackedWeight) else ():
        if (its := _LATER.get(part)) is not None and its.ask():
            its.drop()
    return found


def number(found: Any) -> Any:
    """Return a checksum as a number; None where none is known."""
    return found.value() if isinstance(found, LaterChecksum) else found
