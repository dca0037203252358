"""Tensors in safetensors files: written one at a time, read without leaving the file mapped."""

import json
import os
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, TensorSpec, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import HybridOptError
from ..out_of_memory import out_of_memory
from .paths import path_of

__all__ = ["each", "extents", "flat_bytes", "headers", "load", "metadata", "names", "save"]

LONGEST_HEADER = 100_000_000  # bytes; safetensors refuses more
_POINTER = b"version https://git-lfs"
# What safetensors and torch are known to raise for hostile headers: shapes that overflow, dtypes torch cannot make.
_DAMAGE = (SafetensorError, OSError, RuntimeError, TypeError, ValueError, OverflowError)


def save(
    tensors: dict[str, Tensor],
    path: str | Path,
    metadata: dict[str, str] | None = None,
    whole: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Write tensors of any device, layout of strides and sharing; the file appears complete or not at all.

    Only one tensor at a time is copied to the CPU, and tensors that share memory are each written in full.

    Args:
        tensors: by name.
        path: of the file, new or to be replaced.
        metadata: texts that are kept beside the tensors.
        whole: returns a sharded tensor in one piece; None: there are none.

    Raises:
        HybridOptError: naming the file, and the tensor if it is not dense or of a dtype without a safetensors code.
    """
    path = path_of(path, "path", "a file")
    # os.replace would turn a device or a pipe into a file, and leave what a link points to as it was.
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise HybridOptError(f"{path} is not a regular file and will not be replaced; save to another path")
    # Largest items first, as safetensors does: every tensor starts at a multiple of its item size.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))
    header = _header(ordered, metadata, path, whole is not None)
    # Never in place: the tensors may be mapped from the very file that is replaced.
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(header)
            for tensor in ordered.values():
                # Bound to no name: each copy is freed before the next is made.
                file.write(flat_bytes(tensor if whole is None else whole(tensor)))
        os.replace(temporary, path)
    except OSError as error:
        raise HybridOptError(f"{path} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def load(path: str | Path, what: str = "the tensors") -> dict[str, Tensor]:
    """Read every tensor into memory of its own, on the CPU, with the bits, shapes and dtypes that were saved.

    Later changes of the file do not reach the tensors. Raises HybridOptError, with `what` and the file, for anything
    that is not a whole safetensors file.
    """
    with _reading(path, what):
        return load_file(path, backend="pread")


def names(path: str | Path, what: str = "the tensors") -> list[str]:
    """Return the names of the tensors in a file, sorted, reading only its header; errors as in `load`."""
    with _reading(path, what), headers(path) as file:
        return sorted(file.keys())


def each(path: str | Path, what: str = "the tensors") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor with its name, in memory one at a time; errors as in `load`."""
    with _reading(path, what), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  it is no dict
            yield name, file.get_tensor(name)


def metadata(path: str | Path, what: str = "the tensors") -> dict[str, str]:
    """Return the texts that `save` was given beside the tensors; errors as in `load`."""
    with _reading(path, what), headers(path) as file:
        return file.metadata() or {}


def headers(path: str | Path) -> Any:
    """Open a file for what its header says; its values are not mapped, which would count as memory of the process."""
    return safe_open(path, framework="pt", backend="pread")


def extents(path: str | Path, what: str = "the tensors") -> dict[str, tuple[int, int]]:
    """Return by name which bytes of a file hold each tensor, its first and the first after it; errors as in `load`."""
    names(path, what)  # safetensors checks that the header is whole, and that no tensors overlap
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    start = 8 + size
    found = ((name, each["data_offsets"]) for name, each in header.items() if name != "__metadata__")
    return {name: (start + low, start + high) for name, (low, high) in found}


def _header(tensors: dict[str, Tensor], metadata: dict[str, str] | None, path: Path, sharded: bool) -> bytes:
    entries: dict[str, dict[str, Any]] = {} if metadata is None else {"__metadata__": _plain_texts(metadata, path)}
    stop = 0
    for name, tensor in tensors.items():
        entries[name] = _described(name, tensor, path, sharded)
        start, stop = stop, stop + tensor.nbytes
        entries[name]["data_offsets"] = [start, stop]
    text = json.dumps(entries, separators=(",", ":")).encode()
    if len(text) > LONGEST_HEADER - 8:
        raise HybridOptError(f"{path}: the names of {len(tensors)} tensors do not fit into one safetensors header")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _described(name: str, tensor: Tensor, path: Path, sharded: bool) -> dict[str, object]:
    _check_texts([name], f"{path}: the tensor name")
    if name == "__metadata__":
        raise HybridOptError(f"{path}: the tensor name '__metadata__' is reserved by safetensors")
    code = str(tensor.dtype).removeprefix("torch.")
    # A DTensor or a quantized weight: its data lies in other tensors.
    wrapped = hasattr(tensor, "__tensor_flatten__") and not (sharded and hasattr(tensor, "full_tensor"))
    if wrapped or tensor.layout is not torch.strided or tensor.is_meta or "float4" in code:
        raise HybridOptError(
            f"{path}: {name!r} ({code}, {tensor.layout}, {tensor.device}) is not a dense tensor of whole bytes; "
            "convert it (to_dense, dequantize, full_tensor, view(torch.uint8)) or leave it out"
        )
    try:
        spec = TensorSpec(dtype=code, shape=tensor.shape, data_ptr=0, data_len=tensor.nbytes)
    except _DAMAGE as error:
        raise HybridOptError(f"{path}: {name!r} cannot be saved as {code}: {error}") from error
    return {"dtype": spec.dtype, "shape": list(spec.shape)}


def _plain_texts(metadata: dict[str, str], path: Path) -> dict[str, str]:
    _check_texts([*metadata.keys(), *metadata.values()], f"{path}: the metadata")
    return metadata


def _check_texts(texts: Iterable[object], where: str) -> None:
    for text in texts:
        if not isinstance(text, str) or text != text.encode(errors="replace").decode():
            raise HybridOptError(f"{where} {text!r:.120} is not a string that UTF-8 can hold")


def flat_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a dense tensor, in the order of its elements; a tensor elsewhere is copied to the CPU."""
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    # Not reshape: one element counts as contiguous with any stride, and such a stride forbids the view.
    flat = dense.as_strided((dense.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data


@contextmanager
def _reading(path: str | Path, what: str) -> Iterator[None]:
    try:
        # A pipe would block.
        if not path_of(path, f"{what} in a file", "a file").is_file():
            raise HybridOptError(f"{what} in {path}: there is no such file")
        if not os.access(path, os.R_OK):  # safetensors says that it is not there
            raise HybridOptError(f"{what} in {path} cannot be read by this user: permission denied; let it be read")
        yield
    except HybridOptError:
        raise
    except (*_DAMAGE, MemoryError) as error:
        text = str(error).partition("\n")[0][:300]
        if out_of_memory(error):
            raise HybridOptError(
                f"{what} in {path} cannot be read, as memory is short ({text or type(error).__name__}): the file may "
                "well be whole; free memory, or read it on a machine that has more"
            ) from error
        raise HybridOptError(
            f"{what} in {path} cannot be read ({type(error).__name__}: {text}): {_cure(Path(path))}"
        ) from error


def _cure(path: Path) -> str:
    """Return what to do about a file that is no whole safetensors file."""
    with suppress(OSError), open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            return "it is a pointer of Git LFS, not the weights; run `git lfs pull` in the folder"
    return "restore the file from a copy or save it again"
