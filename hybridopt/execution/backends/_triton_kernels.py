"""What backends of printed Triton kernels share: launches, and what happens where a kernel cannot be made."""

import importlib.util
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.errors import HybridOptWarning
from ...core.numerics.compiling import reason
from ..printing.defined import defined

__all__ = ["KernelLaunch", "broken", "call", "false", "installed", "launched", "made", "sound_or_true"]

_worked: set[Hashable] = set()
_broken: set[Hashable] = set()  # forms of tasks whose kernels cannot be made here


class KernelLaunch(NamedTuple):
    """A launch of a kernel: programs, and its constants, with `num_warps`."""

    kernel: Any
    programs: int
    constants: Mapping[str, int]


@cache
def installed(planned: bool) -> bool:
    """Return whether triton can be imported; a plan (`planned`) is for a machine that has it."""
    return planned or importlib.util.find_spec("triton") is not None


@lru_cache(maxsize=256)
def made(layout: Any, title: str) -> Mapping[str, Any]:
    """Return the kernels of a layout, by name.

    Args:
        layout: from which their text follows.
        title: says in a traceback what they are.
    """
    return defined(layout.text(), title)


def broken(form: Hashable) -> bool:
    """Return whether the kernels of a form of tasks cannot be made here."""
    return form in _broken


def launched(form: Hashable, what: str, launch: Callable[[], None]) -> bool:
    """Launch kernels; where they cannot be made, warn, change nothing, and return False.

    Args:
        form: of the task, all that its kernels depend on.
        what: they do, for the warning.
        launch: what is tried.
    """
    if form in _broken:
        return False
    try:
        launch()
    except Exception as error:  # triton's own, or of a compiler that it calls
        if form in _worked:
            raise
        _give_up(form, what, error)
        return False
    _worked.add(form)
    return True


def call(launches: Sequence[KernelLaunch], given: tuple) -> None:
    """Launch kernels one after the other, with the same arguments; every operation is rounded by itself."""
    for kernel, programs, constants in launches:
        kernel[(programs,)](*given, **constants, enable_fp_fusion=False)


def sound_or_true(sound: Tensor | None, device: torch.device) -> Tensor:
    """Return the flag that kernels read before they change anything, int8 [1]."""
    return _true(device) if sound is None else sound.view(torch.int8)


@lru_cache(maxsize=64)
def false(device: torch.device) -> Tensor:
    """Return the flag by which kernels change nothing, int8 [1]."""
    return torch.zeros(1, dtype=torch.int8, device=device)


@lru_cache(maxsize=64)
def _true(device: torch.device) -> Tensor:
    return torch.ones(1, dtype=torch.int8, device=device)


def _give_up(form: Hashable, what: str, error: Exception) -> None:
    _broken.add(form)
    warnings.warn(
        f"the Triton kernels of {what} cannot be made ({reason(error)}), so steps are slower, with the same results. "
        "Install a C compiler and the triton that torch was built with, or pass compile=False",
        HybridOptWarning,
        stacklevel=7,
    )
