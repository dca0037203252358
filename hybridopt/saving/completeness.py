"""Whether the files of a saved folder hold everything that its configuration says was saved."""

from collections.abc import Iterable
from pathlib import Path

from ..core.errors import HybridOptError
from ..core.files import tensors
from ..core.registry import every
from ..model.adapters import original_name
from ..model.changed_codes import layer_of_kept
from ..model.roles import base_name
from .folder import Folder
from .names import CONFIG

__all__ = ["check_complete", "stood_for"]


def stood_for(names: Iterable[str]) -> set[str]:
    """Return the base names of the tensors whose values are saved under these names: a weight, of its codes."""
    found = {original_name(base_name(name)) for name in names}
    kept = {f"{layer}.weight" for name in found if (layer := layer_of_kept(name))}
    return found | kept | {name.rpartition(".")[0] for name in found}


def check_complete(folder: Folder, config: dict, delta: Iterable[str]) -> None:
    """Raise HybridOptError for a tensor that was changed, and whose new values lie in no file.

    Args:
        folder: the saved folder.
        config: its configuration.
        delta: names of the changed tensors in it.
    """
    if config["whole"]:
        return  # all tensors of a model are looked for when it is loaded
    weights = {library.files[0] for library in every("adapters")}
    files = [folder.path(name) for name in folder.names if Path(name).name in weights]
    held = stood_for([*delta, *(name for file in files for name in tensors.names(file, "the adapter"))])
    if lost := sorted(config["replaced"] - held):
        raise HybridOptError(
            f"{CONFIG} says that {lost[0]!r} ({len(lost)} tensors) had new values when {folder.directory} was saved, "
            "and no file there holds them: copy or save the whole folder again"
        )
