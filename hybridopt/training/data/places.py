"""Where examples lie: files, folders of files, saved data sets, or the hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import HybridOptError, nearest
from ...core.files.paths import path_of
from .hub import HubSplit, SavedDataset
from .local import KINDS, LocalFile, kind_of

__all__ = ["Place", "places"]

Place = LocalFile | HubSplit | SavedDataset
HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/([\w.-]+))?(?::([\w.]+(?:\[[\d:%-]*\])?))?")
SPLITS = re.compile(r"(train|test|val|valid|validation|dev|eval)(?![a-z])")
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"  # what datasets' save_to_disk leaves
ALL_KINDS = ", ".join(KINDS)
LISTED = 8  # names that an error shows


def places(name: str, setting: str) -> list[Place]:
    """Return what a name stands for, in order: each file of a folder is one.

    Args:
        name: a file, a folder, or an id on the hub, such as "org/name" or "org/name/config:split".
        setting: which one it is, for errors, such as "data.train".

    Raises:
        HybridOptError: there is no such file or folder, and it is no id; or it holds nothing that is read.
    """
    path = path_of(name, setting, "a file or a folder").expanduser()
    try:
        if path.is_dir():
            return _folder(path, name, setting)
        if path.exists():
            return [_file(path, name, setting)]
    except OSError as error:
        raise HybridOptError(f"{setting}: {name} cannot be read: {error.strerror}") from error
    base, colon, split = name.rpartition(":")
    if colon and (Path(base).expanduser() / SAVED_SPLITS).is_file():
        return [SavedDataset(Path(base).expanduser(), name, split)]
    found = HUB.fullmatch(name)
    if found and kind_of(path) is None:
        return [HubSplit(found[1], found[2], found[3] or "train", name)]
    raise HybridOptError(f"{setting}: there is no {name}{_near(path)}")


def _file(path: Path, name: str, setting: str) -> Place:
    if kind_of(path) is None:
        raise HybridOptError(f"{setting}: {name} is no kind of file that is read: {ALL_KINDS}, the first also as .gz")
    if not path.is_file():
        raise HybridOptError(f"{setting}: {name} is no regular file")
    if not path.stat().st_size:
        raise HybridOptError(f"{setting}: {name} is empty (0 bytes)")
    return LocalFile(path, name)


def _folder(path: Path, name: str, setting: str) -> list[Place]:
    if (path / SAVED_SPLITS).is_file():
        return [SavedDataset(path, name, "train")]
    if (path / SAVED).is_file():
        return [SavedDataset(path, name, None)]
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        raise HybridOptError(f"{setting}: {name} is the folder of a model, not of examples")
    inside = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    files = [each for each in inside if kind_of(each)]
    if not files:
        has = ", ".join(sorted(each.name for each in path.iterdir())[:LISTED]) or "nothing"
        raise HybridOptError(f"{setting}: the folder {name} has no file that is read ({ALL_KINDS}); it holds {has}")
    _check_alike(files, name, setting)
    return [_file(each, str(Path(name) / each.name), setting) for each in files]


def _check_alike(files: Sequence[Path], name: str, setting: str) -> None:
    """Raise HybridOptError for a folder whose files are not to be joined."""
    kinds = {kind_of(each): each.name for each in files}
    if len(kinds) > 1:
        which = " and ".join(sorted(kinds.values()))
        raise HybridOptError(
            f"{setting}: the folder {name} has files of several kinds, such as {which}; name those meant"
        )
    splits = {found[1]: each.name for each in files if (found := SPLITS.match(each.name.lower()))}
    if len(splits) > 1:
        train = splits.get("train", next(iter(splits.values())))
        other = next(file for file in splits.values() if file != train)
        cure = f"name them: data.train: {Path(name) / train} and data.eval: {Path(name) / other}"
        raise HybridOptError(f"{setting}: the folder {name} has parts to be kept apart ({train}, {other}); {cure}")


def _near(path: Path) -> str:
    """Return what may have been meant, or what else a name could be."""
    try:
        there = [each.name for each in path.parent.iterdir() if each.is_dir() or kind_of(each)]
    except OSError:
        return f" (and no folder {path.parent}); give a file ({ALL_KINDS}), a folder, or an id on the hub (org/name)"
    if best := nearest(path.name, there):
        return f"; did you mean {path.parent / best}?"
    has = ", ".join(sorted(there)[:LISTED]) or "nothing that is read"
    return f"; {path.parent} has {has}. On the hub, an id is org/name, org/name:split or org/name/config:split"
