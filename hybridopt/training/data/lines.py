"""Lines of a text file, decoded one by one, so that a byte that is no UTF-8 has a line."""

import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from ...core.errors import HybridOptError
from .faults import Faults

__all__ = ["lines"]

BOM = b"\xef\xbb\xbf"
OTHERS = {  # how files in other encodings begin, the longer ones first
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def lines(file: BinaryIO, path: str, faults: Faults) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text with its line end) of every line that is UTF-8; the others become faults.

    Args:
        file: opened for bytes.
        path: of the file, for errors.
        faults: where lines that cannot be read are noted.
    """
    for number, line in enumerate(_raw(file, path), 1):
        if number == 1:
            _check_first(line, path)
            line = line.removeprefix(BOM)
        if b"\0" in line:
            cure = "it is damaged, or in another encoding than UTF-8"
            faults.add(f"{path}:{number}", f"the file has NUL bytes here (column {line.index(0) + 1}): {cure}")
            continue
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            faults.add(f"{path}:{number}", _undecoded(line, error))


def _check_first(line: bytes, path: str) -> None:
    """Raise HybridOptError where the first line tells that the file is in another encoding, or has no other lines."""
    for begin, name in OTHERS.items():
        if line.startswith(begin):
            raise HybridOptError(f"{path} is {name}, not UTF-8; convert it: iconv -f {name} -t UTF-8")
    if not line.endswith(b"\n") and b"\r" in line.rstrip(b"\r") and not line.lstrip().startswith(b"["):  # a list
        raise HybridOptError(
            f"{path} ends its lines with a carriage return (CR) alone, as old Macs did; convert it: "
            r"tr '\r' '\n' < OLD > NEW"
        )


def _raw(file: BinaryIO, path: str) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HybridOptError(f"{path} is no gzip file, or it is cut off ({error}); copy it again") from error
    except OSError as error:
        raise HybridOptError(f"{path} cannot be read: {error}") from error


def _undecoded(line: bytes, error: UnicodeDecodeError) -> str:
    if error.reason == "unexpected end of data" and not line.endswith(b"\n"):
        return "the file ends in the middle of a character, so it is incomplete; copy it again, or delete this line"
    byte = line[error.start]
    old = f" ({bytes([byte]).decode('latin-1')!r} in Latin-1)" if byte >= 0xA0 else ""
    return (
        f"is not UTF-8: byte 0x{byte:02x}{old} in column {error.start + 1}; convert the file, such as by "
        "iconv -f LATIN1 -t UTF-8"
    )
