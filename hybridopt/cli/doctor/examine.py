"""Run checks one by one; whatever one of them raises becomes a line that says what to do."""

import pkgutil
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from time import perf_counter

import torch

from ...core.errors import HybridOptWarning
from ...core.numerics.compiling import reason
from ...core.out_of_memory import out_of_memory
from .finding import FAIL, REPORT, WARN, Finding
from .machine import Machine

__all__ = ["KINDS", "Check", "checks", "examine", "outcome"]

KINDS = ("versions", "device", "kernels", "bandwidth", "self-test")
LONGEST = 300  # characters of an error that are shown
ERROR = re.compile(r"\((\w+: .*)\)")


@dataclass(frozen=True)
class Check:
    """Something to look at; every file in `checks` offers one, as `CHECK`.

    Args:
        name: what is looked at.
        kind: one of `KINDS`, in the order in which they are run.
        rank: the place among those of its kind.
        run: gives the lines of the table.
        compiles: does it wait for torch.compile?
    """

    name: str
    kind: str
    rank: int
    run: Callable[[Machine], Iterable[Finding]]
    compiles: bool = False


@cache
def checks() -> tuple[Check, ...]:
    """Return the check of every file in `checks`, in the order in which they are run."""
    from . import checks as folder

    names = [found.name for found in pkgutil.iter_modules(folder.__path__)]
    made: list[Check] = [import_module(f"{folder.__name__}.{name}").CHECK for name in names]
    return tuple(sorted(made, key=lambda check: (KINDS.index(check.kind), check.rank)))


def examine(machine: Machine, watch: Callable[[Check], object] = lambda check: None) -> list[Finding]:
    """Run every check and return what all of them have found.

    Args:
        machine: what is examined.
        watch: is told of every check before it is run.
    """
    found: list[Finding] = []
    for check in checks():
        watch(check)
        found += [one for one in outcome(check, machine) if not _told(one, found)]
    return found


def outcome(check: Check, machine: Machine) -> list[Finding]:
    """Return what a check has found; what it raises is a failure, what hybridopt warns of within it a warning."""
    start = perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = list(check.run(machine))
        except Exception as error:  # of any library: the other checks are run all the same
            found = [_failed(check, machine, error)]
    found += [_warned(check, str(one.message)) for one in said if issubclass(one.category, HybridOptWarning)]
    seconds = perf_counter() - start
    return [replace(one, kind=check.kind, seconds=seconds) for one in found]


def _failed(check: Check, machine: Machine, error: Exception) -> Finding:
    text = reason(error)[:LONGEST]
    if isinstance(error, ModuleNotFoundError) and error.name:
        return Finding(check.name, FAIL, text, f"pip install {error.name.partition('.')[0]}")
    if not out_of_memory(error):
        return Finding(check.name, FAIL, text, REPORT)
    if machine.cuda:
        torch.cuda.empty_cache()
    others = "else uses the GPU (see `nvidia-smi`)" if machine.cuda else "else uses memory"
    return Finding(check.name, FAIL, text, f"end what {others}, and run this again")


def _warned(check: Check, text: str) -> Finding:
    """Make a line of a warning, whose last sentence says what to do."""
    value, _, cure = text.rpartition(". ")
    return Finding(check.name, WARN, value or text, cure[:1].lower() + cure[1:] if value else REPORT)


def _told(one: Finding, before: Iterable[Finding]) -> bool:
    """Return whether an earlier line warns of the same: has the same cure, or names the same error in brackets."""
    warned = [other for other in before if other.state == WARN]
    errors = [error for other in warned for error in ERROR.findall(other.value)]
    return one.state == WARN and (one.cure in [w.cure for w in warned] or any(error in one.value for error in errors))
