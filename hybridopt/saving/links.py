"""Links in saved folders: none that leads out of its folder is followed, neither to read nor to write."""

import os
from collections.abc import Iterable
from pathlib import Path

from ..core.errors import HybridOptError
from .manifest import inside

__all__ = ["COMMIT", "check_commit", "check_inside", "check_parents", "commit_folder"]

COMMIT = ".hybridopt-commit"  # a complete version on its way into place: readers look here first


def commit_folder(directory: Path) -> Path:
    """Return where a complete version waits to be moved into place; by a link, files of others would be moved."""
    commit = directory / COMMIT
    if commit.is_symlink():
        raise HybridOptError(
            f"{commit} is a link to {os.readlink(commit)}, and no version saved here; remove the link"
        )
    return commit


def check_commit(commit: Path, names: Iterable[str]) -> None:
    """Raise HybridOptError if a version on its way has files by links, which nothing here has written."""
    names = list(names)
    check_parents(commit, names)
    if links := [commit / name for name in names if (commit / name).is_symlink()]:
        raise HybridOptError(f"{links[0]} is a link, and nothing that was saved here; remove {commit}")


def check_parents(directory: Path, names: Iterable[str]) -> None:
    """Raise HybridOptError if a file of one of these names would be written outside of the folder."""
    for name in names:
        if not inside((directory / name).parent, directory):
            raise HybridOptError(f"cannot save {directory / name}: a link leads out of {directory}; remove it")


def check_inside(path: Path, directory: Path) -> None:
    """Raise HybridOptError for a file to be read that lies outside of its folder."""
    if not inside(path, directory):
        raise HybridOptError(f"{path} is a link that leads out of the folder: put the file itself there")
