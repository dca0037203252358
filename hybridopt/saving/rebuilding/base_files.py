"""The files of a checkpoint: which hold tensors, and how a changed copy is written."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import HybridOptError
from ...core.files import plain_json
from .. import manifest
from ..names import CONFIG

__all__ = ["appearing", "check_out", "tensor_files"]

INDEX = "*.safetensors.index.json"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")


def tensor_files(base: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, which is one file or a folder; raise for anything else."""
    if base.is_file() and base.suffix == ".safetensors":
        return [base]
    found = sorted(base.glob("*.safetensors")) if base.is_dir() else []
    if (base / CONFIG).exists():
        raise HybridOptError(f"{base} is a folder that hybridopt saved, no base; give the base first, then adapters")
    for index in sorted(base.glob(INDEX))[:1] if base.is_dir() else ():
        found = _indexed(base, index)
    if not found:
        raise HybridOptError(
            f"{base} is no base: it must be a folder with *.safetensors files, or one such file; in Python "
            "model.save_pretrained(folder) writes one"
        )
    return found


def _indexed(base, index):
    """Return the files that the index names; others may hold the same tensors in another form."""
    places = plain_json.take(plain_json.read(index, "the index"), "weight_map", dict, str(index))
    found = [base / name for name in sorted({str(name) for name in places.values()})]
    for path in found:
        if path.parent != base or not path.is_file():
            raise HybridOptError(f"{index} names {path.name!r}, and there is no such file; complete the base")
    return found


def check_out(base: Path, out: Path) -> None:
    """Raise HybridOptError if nothing can be made at `out`."""
    if os.path.lexists(out):
        raise HybridOptError(f"{out} exists and is left as it is; give a path where nothing is")
    if base.resolve() in out.resolve().parents:
        raise HybridOptError(f"{out} lies inside of the base {base}; give a path elsewhere")
    if not out.absolute().parent.is_dir():
        raise HybridOptError(f"there is no folder {out.absolute().parent} for {out.name}; make it first")
    if base.is_file() and out.suffix != ".safetensors":
        raise HybridOptError(f"{base} is a file, and so is what is made of it: let {out} end in .safetensors")


@contextmanager
def appearing(base: Path, out: Path) -> Iterator[Path]:
    """Yield a hidden place beside `out` to write to; it becomes `out` as a whole, or vanishes with the first error.

    Of a folder, all files but those of tensors are copied into it first.
    """
    place = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        if base.is_dir():
            place.mkdir()
            _copy(base, place)
        yield place
        for path in [*place.rglob("*"), place] if place.is_dir() else [place]:
            manifest.sync(path)
        os.rename(place, out)
        manifest.sync(out.absolute().parent)
    except OSError as error:
        raise HybridOptError(f"{out} cannot be written: {error}; nothing is there") from error
    finally:
        shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)


def _copy(base, place):
    """Copy configuration, tokenizer, index: everything but weights, hidden files and caches."""
    for path in base.rglob("*"):
        name = path.relative_to(base)
        if path.is_file() and path.suffix not in WEIGHTS and not any(part.startswith(".") for part in name.parts):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / name)
