"""What backends of printed Triton kernels share: launches, and what happens where a kernel cannot be made."""

import importlib.util
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...core.errors import HybridOptWarning
from ...core.numerics.compiling import reason
from ..printing.defined import defined
from ..slices import update_in_slices
from ..update_task import Task
from . import _compiled_kernels as kernels

__all__ = ["KernelLaunch", "call", "carry_out", "false", "installed", "launched", "made", "makeable", "sound_or_true"]

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


def makeable(form: Hashable, planned: bool) -> bool:
    """Return whether kernels can be made, as far as is known.

    Args:
        form: of the task, all that they depend on.
        planned: as in `installed`.
    """
    return installed(planned) and form not in _broken


def carry_out(tasks: Iterable[Task], launch: Callable[[Task, Tensor | None], bool]) -> None:
    """Carry out tasks one after the other, by the usual update where there are no kernels.

    Args:
        tasks: that a backend of kernels has taken.
        launch: given a task and the keys of what is rounded at random, launches its kernels; returns whether it did.
    """
    tasks = list(tasks)
    keys = kernels.keys(tasks)
    for task in tasks:
        if not launch(task, keys.get(task)):
            update_in_slices(task)
        increment_version([task.param])


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
    """Launch kernels one after the other, with the same arguments; every operation is rounded by itself.

    Triton launches on the current device, whatever its arguments are on.

    Args:
        launches: of kernels.
        given: their arguments, the weight first.
    """
    with torch.cuda.device_of(given[0]):
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
        f"the Triton kernels of {what} cannot be made ({reason(error)}), so steps are slower, with the same results "
        "up to rounding. Install a C compiler and the triton that torch was built with, or pass compile=False",
        HybridOptWarning,
        stacklevel=9,
    )
