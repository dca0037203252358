"""A saved folder, written: adapters as their library reads them, changed base tensors, and the configuration."""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core.contracts import Activations, Adapters
from ..core.errors import HybridOptError
from ..core.files import plain_json, tensors
from ..core.files.paths import path_of
from ..core.registry import every
from ..model.adapters import library_of
from ..model.base_record import Base
from ..model.fsdp.sharded_tensors import reshard_, sharded_tensors
from ..model.placement.placed import up_to_date
from ..policy.routes import Ready
from .configuration import configuration, whole_configuration
from .fitting import base_dtype
from .folder import publish
from .names import CONFIG, DELTA, REPLAY
from .ranks import Whole, together
from .replay import file as replay_file
from .whole.write import check_place, check_writable, write_model

__all__ = ["Savable", "check_directory", "save", "save_whole"]


class Savable(Protocol):
    """What `save` is given: a model with its policy, and what has become of its base; a `Strategy` is one."""

    model: nn.Module
    policy: Ready
    seed: int
    base: Base
    quantized: tuple[str, ...]

    @property
    def activations(self) -> Activations | None:
        """Return what trained linear layers keep of their inputs; None: everything."""

    def check_structure(self) -> None:
        """Raise HybridOptError if base tensors were added, removed or resized."""

    def check_adapters(self) -> None:
        """Raise HybridOptError for adapters that could not be loaded."""

    def changed_tensors(self) -> dict[str, Tensor]:
        """Return the base tensors that training changed, by live name."""

    def check_recorded(self) -> None:
        """See to it that logs know whether weights are those that they have left; all ranks have to call this."""

    def recorded(self, changed: Mapping[str, Tensor], whole: Whole) -> Any:
        """Return the run from which most of `changed` follow, of which `whole` makes one piece; None if none does."""

    def unfrozen(self) -> list[str]:
        """Return the names of the base parameters that are trained beside adapters."""

    def trainable(self) -> list[str]:
        """Return the names of the parameters of adapters that are trained."""


def save(
    strategy: Savable, directory: str | Path, replay: bool = True, beside: Callable[[Path], None] | None = None
) -> None:
    """Publish a folder from which `from_pretrained` restores the model, in one step.

    Where the model is sharded over ranks, all of them have to call this; the first writes.

    Args:
        strategy: what is saved.
        directory: the folder; files of an earlier version in it are replaced.
        replay: save base tensors as the scalars of a run wherever they follow from them.
        beside: writes further files of this version into the folder that it is given; None: there are none.
    """
    model, library = strategy.model, _library(strategy.model)
    _check(strategy, directory)
    found = strategy.changed_tensors()
    strategy.check_recorded()

    def write(folder: Path, whole: Whole) -> None:
        held = set()
        if library is not None:
            library.save(model, folder, {n for n, mark in strategy.base.items() if mark[2] is None}, whole)
            held = library.saved_names(model, folder)
        changed = {n: t for n, t in found.items() if n not in held}
        run = strategy.recorded(changed, whole) if replay else None
        replayed = {} if run is None else run.traces
        delta = {n: t for n, t in changed.items() if n not in replayed}
        if run is not None:
            replay_file.write(run, folder / REPLAY)
        if delta:
            tensors.save(delta, folder / DELTA, {"format": "pt"}, whole)
        plain_json.write(folder / CONFIG, configuration(strategy, {*delta, *held}, replayed))

    _publish(model, directory, write, beside)


def save_whole(
    strategy: Savable,
    directory: str | Path,
    max_shard_size: str | int = "5GB",
    name: str | None = None,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Publish a complete Hugging Face model folder, in one step; `from_pretrained` takes it, too.

    Where the model is sharded over ranks, all of them have to call this; the first writes.

    Args:
        strategy: what is saved, a transformers model without adapters. Codes are written as floats.
        directory: the folder; files of an earlier version in it are replaced.
        max_shard_size: bytes of a file of weights at most, such as "5GB"; a single tensor may be larger.
        name: of the base model, on the hub or on this machine; None: as the model says.
        beside: writes further files of this version into the folder that it is given; None: there are none.
    """
    model: Any = strategy.model
    _check(strategy, directory)
    largest = check_writable(model, max_shard_size)
    check_place(Path(directory))
    dtype = base_dtype(model) or str(model.dtype).removeprefix("torch.")
    name = name or model.config.name_or_path or None

    def write(folder: Path, whole: Whole) -> None:
        write_model(model, folder, largest, getattr(torch, dtype), whole)
        plain_json.write(folder / CONFIG, whole_configuration(strategy, dtype, name))

    _publish(model, directory, write, beside)


def _check(strategy: Savable, directory: str | Path) -> None:
    """Raise HybridOptError for what is not saved; nothing is written by then."""
    check_directory(directory)
    reshard_(strategy.model)
    up_to_date(strategy.model)
    strategy.check_structure()
    strategy.check_adapters()
    _check_savable(strategy.model)


def _publish(
    model: nn.Module,
    directory: str | Path,
    write: Callable[[Path, Whole], None],
    beside: Callable[[Path], None] | None,
) -> None:
    """Publish what `write` and `beside` write, on one rank of those that a model is sharded over."""

    def both(folder: Path, whole: Whole) -> None:
        write(folder, whole)
        if beside is not None:
            beside(folder)

    together(sharded_tensors(model), lambda whole: publish(Path(directory), lambda folder: both(folder, whole)))


def _library(model: nn.Module) -> Adapters | None:
    """Return the library whose adapters lie on a model; None where they were taken off, as by merging them."""
    library = library_of(model)
    return library if library is not None and library.names(model) else None


def _check_savable(model: nn.Module) -> None:
    merged = [n for n, m in model.named_modules() if any(each.is_merged(m) for each in every("adapters"))]
    if merged:
        raise HybridOptError(
            f"the adapter of {merged[0]!r} is merged into its base; call model.unmerge_adapter() first"
        )
    off = [n for n, m in model.named_modules() if any(each.is_off(m) for each in every("adapters"))]
    if off:
        raise HybridOptError(
            f"the adapters of {off[0]!r} are switched off, and would come back switched on; switch them on before "
            "saving, as model.enable_adapter_layers() does"
        )
    if (library := _library(model)) is not None:
        library.check_savable(model)


def check_directory(directory: str | PathLike) -> None:
    """Raise HybridOptError for what is no path."""
    path_of(directory, "directory")
