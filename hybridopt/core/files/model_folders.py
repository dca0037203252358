"""Folders that should hold a model: what lies there instead, and how to come to one."""

from pathlib import Path
from shlex import quote

__all__ = ["CONFIG", "cure_of", "to_train_on"]

CONFIG = "config.json"
FOR_A_BASE = ("adapter_config.json", "hybridopt_config.json")  # adapters or changes, which need their base


def cure_of(folder: Path) -> str:
    """Return what to do where a model was wanted and a folder has no config.json."""
    if _for_a_base(folder):
        return f"it holds what was trained, without the base: {_merged(folder)}"
    beside = _below(folder)
    return f"did you mean {beside}?" if beside else "give the folder that save_pretrained wrote"


def to_train_on(folder: Path) -> str:
    """Return how the result of a run is trained on."""
    if _for_a_base(folder):
        return f"{_merged(folder)}, and another -o"
    return "give its result as MODEL and another -o"


def _for_a_base(folder: Path) -> bool:
    """Return whether a folder holds adapters or changes, and no whole model."""
    return not (folder / CONFIG).is_file() and any((folder / name).is_file() for name in FOR_A_BASE)


def _merged(folder: Path) -> str:
    out = f"{str(folder).rstrip('/')}-merged"
    return f"make a whole model by `hybridopt merge {quote(str(folder))} -o {quote(out)}` and give {out}"


def _below(folder: Path) -> Path | None:
    """Return the one folder of a model right below, or below "snapshots", as in the Hugging Face cache."""
    found = [path.parent for pattern in (f"*/{CONFIG}", f"snapshots/*/{CONFIG}") for path in folder.glob(pattern)]
    return found[0] if len(found) == 1 else None
