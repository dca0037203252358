"""`load`: models from a folder, quantized while they are read, in the memory that they will take."""

import warnings
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.contracts import Scheme
from ...core.errors import HybridOptError, HybridOptWarning
from ...core.files.paths import path_of
from ...core.out_of_memory import enough_memory
from ..placement.auto_placement import settled
from ..placement.placement import Placement, read_placement
from ..placement.storage.unit_files import UnitFiles
from ..placement.streaming.rows import aside
from ..placement.units import units
from ..quantization.scheme_names import frozen_names, named
from ..quantization.targets import chosen, warn_of_read
from ..roles import head_modules
from ..unquantized import unquantized
from .building import build, check_folder, kept_in_fp32, read_model_config
from .filling import Filling
from .generation import read_generation
from .matching import match, shared_names
from .materializing import InputGradients, fill, finish
from .offload_files import Keeping, key_of
from .offloading import RestingLayers
from .sizes import tensor_bytes, weights_of
from .usable_files import InFiles
from .weight_files import Stored, read, stored

__all__ = ["How", "filled", "load"]

CURE = "the files may well be whole: free memory, or take a quantization, dtype='bfloat16' or another device"


def load(
    path: str | PathLike,
    *,
    quantization: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    skip: Sequence[str] = (),
    placement: str | Placement | None = None,
    memory: str | int | None = None,
    host_memory: str | int | None = None,
) -> nn.Module:
    """Return the transformers model in a local folder (config.json, one or several .safetensors), for evaluation.

    It is what `from_pretrained` and `wrap(quantization=...)` make, to the bit, but tensor by tensor: at no time is
    more allocated than the finished model and one layer in full precision. Hand it to `wrap` without `quantization`;
    `prepare_model_for_kbit_training` is not needed: norms and embeddings stay in `dtype`, and gradient checkpointing
    works, reentrant or not (8-bit layers keep their inputs unless use_reentrant=True).

    Args:
        path: the folder. Nothing is downloaded, and code in it is never run.
        quantization: the name of a scheme, as in `wrap`, for the linear layers but the output layer.
        dtype: "float32", "bfloat16" or "float16" for all else; None takes that of config.json, or of the first tensor.
        device: where the model is to be; None takes torch's default device.
        skip: names of modules to keep in full precision, with all beneath them, such as an adapter's modules_to_save.
        placement: where the weights of layers rest between their uses: "device" (or None), "host", "disk", "auto", or
            a Placement.
        memory: of the device that weights may take with `placement`, such as "24GiB" or "4090"; None: what is free.
        host_memory: of the host that weights may take with `placement`; None: what is free, also to a container.

    Raises:
        HybridOptError: before a tensor is read, for a folder, config or file that is missing or damaged, and for
            tensors that are missing, left over, misshapen or of a dtype that needs scales; and where memory is short.
    """
    folder = check_folder(path)
    how = How(quantization, dtype, device, tuple(skip), read_placement(placement, "load"), memory, host_memory)
    return filled(folder, read_model_config(folder), stored(folder), how)


@dataclass(frozen=True)
class How:
    """How a model is loaded; the arguments of `load`."""

    quantization: str | None = None
    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    skip: tuple[str, ...] = ()
    placement: Placement | None = None
    memory: str | int | None = None
    host_memory: str | int | None = None

    def __post_init__(self) -> None:
        for name, value in (("memory", self.memory), ("host_memory", self.host_memory)):
            if value is not None and self.placement is None:
                raise HybridOptError(
                    f"{name}={value!r} says how much weights may take where placement says that they may rest "
                    "elsewhere; add placement='auto', or leave it out",
                    "load",
                )


def filled(folder: Path, config: Any, entries: dict[str, Stored], how: How, new: Collection[str] = ()) -> nn.Module:
    """Return the model of a configuration with the values of a folder; those of `new` tensors are yet to be made.

    Args:
        folder: of the model.
        config: of transformers.
        entries: the tensors that are stored there.
        how: how it is loaded.
        new: names of tensors that are not stored, where the model has another output layer than the folder's.
    """
    target = _device(how.device)
    scheme = None if how.quantization is None else named(how.quantization, "load")
    floats = [entry.dtype for entry in entries.values() if entry.dtype.is_floating_point]
    model = build(config, folder, how.dtype, floats[0] if floats else torch.float32)
    found = match(model, entries, new, other_head=bool(new))
    with enough_memory(f"load: {folder}", CURE):
        _check_ties(model, entries)
    layers = _layers(model, scheme, how.skip, target)
    dtypes = _dtypes(model)
    if how.placement is not None and scheme is not None and scheme.trains:
        raise HybridOptError(
            f"quantization={scheme.name!r} trains the weights of layers, and placement={how.placement.base!r} is for "
            f"frozen ones; take quantization={frozen_names()}, or leave placement out",
            "load",
        )
    if scheme is not None:
        _tell(model, scheme, layers, how.skip)
    with ExitStack() as stack:
        stack.enter_context(enough_memory(f"load: {folder} onto {str(target)!r}", CURE))
        resting = None
        if how.placement is not None:
            resting = _resting(folder, Filling(model, found, dtypes, scheme, layers, target), how, how.placement)
        if resting is None:
            values = found.tensors(lambda name, value, copied: value.to(target, dtypes[name], copy=copied))
            fill(model, values, scheme, layers)
        else:
            stack.enter_context(resting.open())
            values = found.tensors(resting.place, resting.read, resting.done, resting.there)
            fill(model, values, scheme, layers, resting.filled)
        fill(model, ((name, torch.empty_like(model.get_parameter(name), device=target)) for name in new))
        finish(model, target)
    _generation(model, folder)
    if scheme is not None and not scheme.trains:
        InputGradients.of(model)
    return model


def _resting(folder: Path, filling: Filling, how: How, wanted: Placement) -> RestingLayers | None:
    """Return what lets the layers of a model rest while it is filled; None if all of it fits on the device.

    Args:
        folder: of the model.
        filling: the model, and what it is filled with.
        how: it is loaded.
        wanted: its placement, as asked for.
    """
    model, scheme, layers, device, cache = filling.model, filling.scheme, filling.layers, filling.device, wanted.cache
    every = units(model)
    sizes = tensor_bytes(model, filling.dtypes, scheme, layers)
    names = [piece.name for unit in every for piece in unit.pieces]
    exact = cache is not None and device.type == "cpu"
    in_files = InFiles(filling.found, names, filling.dtypes, layers, exact)
    weights = weights_of(every, sizes, cache is not None or not in_files.why_not, aside(model, device))
    placement = settled(wanted, weights, device, how.memory, how.host_memory)
    if placement.base == "device":
        return None
    resting, keeping = units(model, placement.resident), None
    if placement.base == "disk" and cache is not None:
        odd = {u: {x.name: sizes[x.name] for x in u.pieces if x.name in in_files.why_not} for u in resting}
        stored = [entry for each in filling.found.sources.values() for entry, _ in each]
        files = UnitFiles(_cache(cache, folder), key_of(folder, stored, model, scheme, layers, device.type))
        keeping = Keeping(files, model, scheme, layers, {u: names for u, names in odd.items() if names}, device)
    return RestingLayers(filling, placement, resting, in_files, keeping)


def _cache(path: Any, folder: Path) -> Path:
    cache = path_of(path, "cache")
    if cache.resolve() == folder.resolve():
        raise HybridOptError(
            f"cache={str(cache)!r} is the folder of the model, which is never written; give another one", "placement"
        )
    return cache


def _device(device) -> torch.device:
    try:
        found = torch.get_default_device() if device is None else torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        text = str(error).partition("\n")[0][:200]
        raise HybridOptError(f"load: device={device!r} is not there: {text}") from error
    if found.type == "meta":
        raise HybridOptError("load: device='meta' holds no values; take 'cpu' or 'cuda'")
    return found


def _check_ties(model, entries) -> None:
    """Raise HybridOptError where tied tensors are stored with different values; from_pretrained would untie them."""
    for names in shared_names(model):
        there = [entries[name] for name in names if name in entries]
        for other in there[1:]:
            if not torch.equal(read(there[0]), read(other)):
                raise HybridOptError(
                    f"config.json ties {other.name!r} to {there[0].name!r}, but they are stored with different "
                    "values; set tie_word_embeddings to false there"
                )


def _layers(model: nn.Module, scheme: Scheme | None, skip: Sequence[str], device: torch.device) -> list[str]:
    if scheme is None:
        return []
    skip = sorted(head_modules(model) | set(skip))
    warn_of_read(model, scheme, skip, stacklevel=4)
    return chosen(model, scheme, skip, device)


def _tell(model: nn.Module, scheme: Scheme, layers: list[str], skip: Sequence[str]) -> None:
    left = unquantized(model, scheme, layers, skip)
    if left is not None and left.surprising:
        warnings.warn(f"{type(model).__name__}: {left}", HybridOptWarning, stacklevel=4)


def _dtypes(model) -> dict[str, torch.dtype]:
    fp32 = kept_in_fp32(model)
    return {
        name: torch.float32 if x.is_floating_point() and any(part in name for part in fp32) else x.dtype
        for name, x in model.state_dict().items()
    }


def _generation(model, folder) -> None:
    if model.can_generate() and (found := read_generation(folder)) is not None:
        model.generation_config = found
