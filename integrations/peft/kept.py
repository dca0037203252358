"""Modules that are trained in full beside adapters: PEFT takes all whose names end so, and passes over others."""

import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from hybridopt.core.errors import HybridOptError, HybridOptWarning, known
from hybridopt.model.quantization.owners import is_frozen

from .targets import ends

__all__ = ["absent_kept", "check_kept"]


def absent_kept(model: nn.Module, config: Any) -> str | None:
    """Return a sentence on a name in `modules_to_save` that no module of a model has; None where all are there.

    Args:
        model: without adapters; it may be on the meta device.
        config: of PEFT, for new adapters.
    """
    names = [name for name, _ in model.named_modules() if name]
    for given in _given(config):
        if not any(given in ends(name) for name in names):
            return f"{type(model).__name__} has no module {given!r}; {_cure(given, names)}"
    return None


def check_kept(model: nn.Module, config: Any, kept: list[str]) -> None:
    """Raise HybridOptError for modules to train in full that are not there, or are quantized; warn of unnamed ones.

    Args:
        model: without adapters.
        config: of PEFT, for new adapters.
        kept: names of the modules that PEFT would train in full.
    """
    if said := absent_kept(model, config):
        raise HybridOptError(f"modules_to_save: {said}")
    for given in _given(config):
        others = [name for name in kept if name.endswith(given) and given not in ends(name)]
        if others:
            whole = next(name for name, _ in model.named_modules() if given in ends(name))
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            warnings.warn(
                f"modules_to_save: {given!r} is also the end of {others[0]!r}{more}, which PEFT trains as well; "
                f"write {whole!r} if that is meant alone",
                HybridOptWarning,
                stacklevel=3,
            )
    for name in kept:
        if any(map(is_frozen, model.get_submodule(name).parameters())):
            cure = f"load it unquantized (BitsAndBytesConfig(llm_int8_skip_modules=[{name!r}])) or use LoRA on it"
            raise HybridOptError(f"modules_to_save: {name} is quantized and cannot be trained; {cure}")


def _given(config: Any) -> Iterator[str]:
    yield from getattr(config, "modules_to_save", None) or ()


def _cure(given: str, names: list[str]) -> str:
    """Return what to write instead: of part of a name the whole ones, of any other text the near one."""
    lasts = {name.rpartition(".")[2] for name in names}
    parts = sorted(last for last in lasts if last.endswith(given) and not last.isdigit())
    if parts:
        return f"names are whole, or the ends of names after a dot: write {', '.join(parts)}"
    return known(given, {last for last in lasts if not last.isdigit()})
