"""The manifest of a saved folder: every file with its size and sha256."""

import hashlib
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath

from ..core.errors import HybridOptError
from ..core.files import plain_json

__all__ = ["MANIFEST", "FileEntry", "inside", "read", "seal", "sync", "verify"]

MANIFEST = "hybridopt_manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 in hexadecimal that one file must have."""

    size: int
    sha256: str


def seal(folder: Path) -> list[str]:
    """Write the manifest of everything in `folder`, give all files the mode the umask asks for, put all on disk.

    Returns the names: paths relative to `folder`, with slashes. Raises HybridOptError for links and special files.
    """
    names = _names(folder)
    entries = {name: asdict(_measure(folder / name)) for name in names}
    plain_json.write(folder / MANIFEST, {"format": FORMAT, "files": entries})
    mode = stat.S_IMODE((folder / MANIFEST).stat().st_mode)
    for name in [*names, MANIFEST]:
        # safetensors leaves 0600, whatever the umask.
        os.chmod(folder / name, mode)
        sync(folder / name)
    for parent in {(folder / name).parent for name in [*names, MANIFEST]}:
        sync(parent)
    return names


def read(path: Path) -> dict[str, FileEntry]:
    """Return the entries of a manifest file by name.

    Raises HybridOptError for another format and for names that are not plain paths inside the folder.
    """
    where = f"the manifest {path}"
    data = plain_json.read(path, "the manifest")
    number = plain_json.take(data, "format", int, where)
    if number != FORMAT:
        raise HybridOptError(f"{where} has format {number}, but this hybridopt reads {FORMAT}: install a newer one")
    plain_json.only(data, ("format", "files"), where)
    files = plain_json.take(data, "files", dict, where)
    return {name: _entry(name, files, where) for name in files}


def verify(path: Path, entry: FileEntry) -> None:
    """Raise HybridOptError unless `path` is a regular file of the size and the sha256 in `entry`."""
    cure = "restore the file from a copy, or save again"
    if not path.is_file():
        raise HybridOptError(f"{path} is missing, but the manifest lists it: {cure}")
    size = path.stat().st_size
    if size != entry.size:
        raise HybridOptError(f"{path} has {size} bytes, the manifest says {entry.size}: {cure}")
    found = _measure(path).sha256
    if found != entry.sha256:
        raise HybridOptError(f"{path} is damaged: its sha256 is {found}, the manifest says {entry.sha256}: {cure}")


def inside(path: Path, directory: Path) -> bool:
    """Return whether `path`, all links followed, lies in `directory`."""
    root, real = Path(os.path.realpath(directory)), Path(os.path.realpath(path))
    # The Hugging Face cache keeps each file of a snapshot as a link into the blobs folder beside it.
    blobs = [parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots"]
    return any(real.is_relative_to(each) for each in [root, *blobs])


def sync(path: Path) -> None:
    """Put a file, or the entries of a folder, on disk."""
    if os.name == "nt":
        return  # Windows opens no folders, and syncs nothing that is open for reading.
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _names(folder: Path) -> list[str]:
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise HybridOptError(f"{path} is a link or a special file; only plain files can be saved")
        if path.is_file():
            names.append(path.relative_to(folder).as_posix())
            _check_name(names[-1], str(folder))
    return names


def _measure(path: Path) -> FileEntry:
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(size=file.tell(), sha256=sha256)


def _entry(name: str, files: dict[str, object], where: str) -> FileEntry:
    _check_name(name, where)
    data = plain_json.take(files, name, dict, where)
    plain_json.only(data, ("size", "sha256"), f"{where}: {name!r}")
    size = plain_json.take(data, "size", int, f"{where}: {name!r}")
    return FileEntry(size, plain_json.take(data, "sha256", str, f"{where}: {name!r}"))


def _check_name(name: str, where: str) -> None:
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts) and not {"\0", "\\"} & set(name)
    if not plain or PurePath(name).anchor or name == MANIFEST or parts[0].startswith(".hybridopt-"):
        raise HybridOptError(f"{where} has a file named {name!r:.120}; a plain path inside the folder is needed")
