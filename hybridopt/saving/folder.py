"""A saved folder: published in one step, and verified before anything in it is used."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError

from ..core.errors import HybridOptError
from ..core.files.lock import locked
from ..core.files.paths import path_of
from ..core.registry import every
from . import links, manifest
from .links import COMMIT
from .manifest import MANIFEST

__all__ = ["CARD", "OWN", "Folder", "adapter_files", "open_folder", "previous_names", "publish"]

CARD = "README.md"  # is for people to edit: of no version is it known what it must hold
TEMPORARY = ".hybridopt-new-"
UNCHANGED = "nothing saved there before has changed; make room or choose another folder"
OWN = ("hybridopt_*.json", "hybridopt_*.safetensors")  # patterns of the files that are no adapters


@dataclass(frozen=True)
class Folder:
    """The verified files of one saved version; valid inside the `with` of `open_folder`."""

    directory: Path
    files: dict[str, Path]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files but the manifest: relative paths with slashes, sorted."""
        return tuple(sorted(self.files))

    def path(self, name: str) -> Path:
        """Return where the file of that name lies now; raise HybridOptError if the version has none."""
        if name not in self.files:
            raise HybridOptError(f"{self.directory} holds no {name!r}; it holds {', '.join(self.names) or 'nothing'}")
        return self.files[name]


def publish(directory: str | Path, write: Callable[[Path], None], wait: float = 300.0) -> None:
    """Save what `write` writes as the new version of a folder: killed at any point, the old or the new one loads.

    Files of the previous version that the new one lacks are removed, files of others are kept. Other savers and
    readers are waited for.

    Args:
        directory: the folder; made if it is not there.
        write: is given an empty folder to write the files of the new version into.
        wait: seconds at most to wait for others.

    Raises:
        HybridOptError: naming the path; the old version still loads.
    """
    directory = path_of(directory, "directory")
    with _disk_errors(directory, UNCHANGED), ExitStack() as cleanup:
        _make(directory)
        with locked(directory, exclusive=True, wait=wait):
            _finish(directory)
            _sweep(directory)
            temporary = directory / f"{TEMPORARY}{secrets.token_hex(8)}"
            temporary.mkdir()
            cleanup.callback(shutil.rmtree, temporary, ignore_errors=True)
            # Says to other savers that this folder is no stray; readers may go on while it is written.
            cleanup.enter_context(locked(temporary, exclusive=True, wait=wait))
        write(temporary)
        names = manifest.seal(temporary)
        with locked(directory, exclusive=True, wait=wait):
            _finish(directory)
            _check_targets(directory, names)
            _commit(directory, temporary)


@contextmanager
def open_folder(directory: str | Path, wait: float = 300.0) -> Iterator[Folder]:
    """Verify every file of a saved folder against its manifest, and hold savers off within the `with`.

    Nothing is written; savers are waited for, `wait` seconds at most.

    Raises:
        HybridOptError: naming the file, what was expected and found, and the cure.
    """
    directory = path_of(directory, "directory")
    with _disk_errors(directory, "it cannot be read"):
        if not directory.is_dir():
            raise HybridOptError(f"{directory} is not a saved folder: {_found(directory)}")
    with locked(directory, exclusive=False, wait=wait):
        with _disk_errors(directory, "it cannot be read"):
            folder = _verified(directory)
        yield folder


def _make(directory: Path) -> None:
    _check_way(directory)
    if not directory.exists():
        directory.mkdir(parents=True, exist_ok=True)
        manifest.sync(directory.parent)


def _check_way(folder: Path) -> None:
    first = next(path for path in [folder, *folder.parents] if os.path.lexists(path))
    if not first.is_dir():
        raise HybridOptError(f"cannot save to {folder}: {_found(first)}; remove it or choose another folder")


def _sweep(directory: Path) -> None:
    for stray in (path for path in directory.glob(TEMPORARY + "*") if not path.is_symlink()):
        # Its lock is free only if the saver that made it is dead.
        with suppress(HybridOptError), locked(stray, exclusive=True, wait=0) as free:
            if free:
                shutil.rmtree(stray, ignore_errors=True)


def _check_targets(directory: Path, names: list[str]) -> None:
    links.check_parents(directory, names)
    for name in names:
        target = directory / name
        _check_way(target.parent)
        if os.path.lexists(target) and not target.is_file():
            raise HybridOptError(f"cannot save to {directory}: {_found(target)}; remove it or choose another folder")
    _check_foreign(directory, {*names, *previous_names(directory)})


def _commit(directory: Path, temporary: Path) -> None:
    os.rename(temporary, directory / COMMIT)
    with _disk_errors(directory, f"the new version is complete in {COMMIT} and loads; save again to move it in place"):
        manifest.sync(directory)
        _finish(directory)


def _finish(directory: Path) -> None:
    commit = links.commit_folder(directory)
    if (commit / MANIFEST).exists():
        new = manifest.read(commit / MANIFEST)
        links.check_parents(directory, new)
        links.check_commit(commit, new)
        for name in new:
            _move(commit / name, directory / name)
        for name in previous_names(directory) - {*new, CARD}:
            _remove(directory / name, directory)
        for parent in {(directory / name).parent for name in new}:
            manifest.sync(parent)
        # Last: until here, readers look into the commit folder first.
        os.replace(commit / MANIFEST, directory / MANIFEST)
        manifest.sync(directory)
    if commit.exists():
        shutil.rmtree(commit)


def _move(source: Path, target: Path) -> None:
    # What is no longer there was moved before the saver was killed.
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)


def _remove(path: Path, directory: Path) -> None:
    if manifest.inside(path.parent, directory):
        if path.is_file() or path.is_symlink():
            path.unlink()
        with suppress(OSError):  # other files are left in it
            path.parent.rmdir()


def previous_names(directory: Path) -> set[str]:
    """Return the names of the files of the version that lies in a folder; empty without one."""
    try:
        return set(manifest.read(directory / MANIFEST))
    except HybridOptError:
        return set()


def _verified(directory: Path) -> Folder:
    commit = links.commit_folder(directory)
    source = commit if (commit / MANIFEST).exists() else directory
    if not (source / MANIFEST).exists():
        raise HybridOptError(f"{directory} has no {MANIFEST}: {_described(directory)}")
    links.check_inside(source / MANIFEST, directory)
    entries = manifest.read(source / MANIFEST)
    files = {}
    for name, entry in entries.items():
        path = source / name
        if name == CARD:
            continue
        files[name] = path if path.exists() else directory / name
        links.check_inside(files[name], directory)
        manifest.verify(files[name], entry)
    _check_foreign(directory, {*entries, *(previous_names(directory) if source == commit else ())})
    return Folder(directory, files)


def adapter_files() -> tuple[str, ...]:
    """Return the names of the files that libraries of adapters write for one adapter."""
    return tuple(file for library in every("adapters") for file in library.files)


def _check_foreign(directory: Path, known: set[str]) -> None:
    ours = (*OWN, *adapter_files())
    for path in sorted(directory.iterdir()):
        name = path.name
        if name != MANIFEST and name not in known and any(fnmatchcase(name, own) for own in ours):
            raise HybridOptError(
                f"{path} belongs to no version saved here: another program put it there, or a manifest was "
                "lost; remove it or choose another folder"
            )


def _described(directory: Path) -> str:
    names = sorted(path.name for path in directory.iterdir())
    saved = [name for name in names if (directory / name / MANIFEST).exists()]
    if "hybridopt_config.json" in names:
        return "it was copied without it, or an old hybridopt file lies there: copy or save the whole folder again"
    if "adapter_config.json" in names:
        return "it looks like a plain PEFT adapter: use peft.PeftModel.from_pretrained"
    if "config.json" in names:
        return "it looks like a plain transformers model: use AutoModel.from_pretrained"
    if saved:
        return f"saved folders lie below it: {', '.join(saved[:5])}"
    if any(name.startswith(TEMPORARY) for name in names):
        return "it holds only a save that was interrupted: save again"
    return f"it holds {', '.join(names[:5]) or 'nothing'}; give a folder that model.hybrid.save_pretrained wrote"


def _found(path: Path) -> str:
    if not os.path.lexists(path):
        return f"there is nothing at {path}"
    if not path.exists():
        return f"there is a link that leads nowhere at {path}"
    kind = "a folder" if path.is_dir() else "a file" if path.is_file() else "a device or a pipe"
    return f"there is {kind} at {path}"


@contextmanager
def _disk_errors(directory: Path, state: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise HybridOptError(f"{directory}: {error} ({state})") from error
