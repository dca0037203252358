"""The safetensors files of a model folder: what they hold, and one tensor at a time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ...core.errors import HybridOptError
from ...core.files import plain_json, tensors

__all__ = ["Stored", "in_file", "read", "stored"]

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WHAT = "the model's weights"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """Where a tensor is stored, and its name, shape and dtype there."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def stored(folder: Path) -> dict[str, Stored]:
    """Return where every tensor of a folder is stored, by name, from the headers of its files alone.

    Raises:
        HybridOptError: for missing, damaged or truncated files, and for dtypes that need constants to be understood.
    """
    found: dict[str, Stored] = {}
    for file, names in _files(folder).items():
        there = tensors.names(file, WHAT)
        if lost := sorted(set(names or there) - set(there)):
            raise HybridOptError(f"{file} has no {lost[0]!r}, which {INDEX} says it has; download the folder again")
        found |= {each.name: each for each in _described(file, names or there)}
    return found


def in_file(file: Path, what: str = WHAT) -> dict[str, Stored]:
    """Return where every tensor of one file is stored, by name; `what` names its purpose in errors."""
    return {each.name: each for each in _described(file, tensors.names(file, what))}


def read(entry: Stored) -> Tensor:
    """Return a tensor as its file has it: memory-mapped, so that it takes no memory until it is copied."""
    with safe_open(entry.file, "pt") as file:
        return file.get_tensor(entry.name)


def _files(folder: Path) -> Mapping[Path, list[str]] | Mapping[Path, None]:
    """Return the files with the names that the index gives to each; None: whatever a single file holds."""
    if (folder / WHOLE).is_file():
        return {folder / WHOLE: None}
    if not (folder / INDEX).is_file():
        pickled = sorted(f.name for f in folder.glob("*.bin")) + sorted(f.name for f in folder.glob("*.pt*"))
        cure = f"it has {pickled[0]}: save it as safetensors (model.save_pretrained) first" if pickled else "copy it"
        raise HybridOptError(f"{folder} has no {WHOLE} and no {INDEX}; {cure}")
    found: dict[Path, list[str]] = {}
    for name, file in plain_json.take(plain_json.read(folder / INDEX, "index"), "weight_map", dict, INDEX).items():
        if not isinstance(file, str) or Path(file).name != file:
            raise HybridOptError(f"{folder / INDEX}: {name!r} is said to lie in {file!r}, which is no file name")
        found.setdefault(folder / file, []).append(name)
    return found


def _described(file: Path, names: Iterable[str]) -> Iterable[Stored]:
    with tensors.headers(file) as opened:
        for name in names:
            view = opened.get_slice(name)
            if view.get_dtype() not in DTYPES:
                raise HybridOptError(
                    f"{file}: {name!r} is of dtype {view.get_dtype()}, which says little without its scales; take "
                    f"weights in one of {', '.join(DTYPES)}"
                )
            yield Stored(file.absolute(), name, tuple(view.get_shape()), DTYPES[view.get_dtype()])
