"""The adapters in a saved folder: of which library they are, and their files where that library wants them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..core.contracts import Adapters
from ..core.errors import HybridOptError
from ..core.registry import every
from ..model.adapters import usual_library
from .folder import Folder
from .names import CONFIG

__all__ = ["library_in", "together"]


@contextmanager
def together(folder: Folder) -> Iterator[str]:
    """Yield a folder of links to all saved files, as libraries want them together, wherever they lie now.

    Errors that are raised meanwhile name the saved folder, which people know, in place of the one with links.
    """
    with TemporaryDirectory() as place:
        for name in folder.names:
            link = Path(place) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder.path(name).resolve())
        try:
            yield place
        except HybridOptError as error:
            if place not in error.text:
                raise
            raise HybridOptError(error.text.replace(place, str(folder.directory)), error.owner) from error


def library_in(folder: Folder, config: dict) -> Adapters:
    """Return the library whose adapters lie in the folder; all of them must be listed, or training would be lost."""
    weights = {n for library in every("adapters") for n in folder.names if Path(n).name == library.files[0]}
    found = {str(Path(n).parent) for n in weights}
    names = {Path(n).name for n in weights}
    library = next((each for each in every("adapters") if each.files[0] in names), usual_library())
    if found != {str(library.folder(name)) for name in config["adapters"]}:
        raise HybridOptError(f"{CONFIG}: adapters={config['adapters']}, but there are files of {sorted(found)}")
    return library
