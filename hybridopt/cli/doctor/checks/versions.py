"""Versions of Python, of hybridopt and of what it needs."""

import platform
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

from ....core.version import __version__, installed
from ..examine import Check
from ..finding import FAIL, OK, SKIPPED, WARN, Finding
from ..machine import Machine

__all__ = ["CHECK", "required", "triton"]

KNOWN = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "typer", "rich", "numpy")
INSTALL = "in the folder of hybridopt: pip install -e ."


def _versions(machine: Machine) -> Iterator[Finding]:
    yield Finding("python", OK, platform.python_version())
    own = installed("hybridopt")
    if own == __version__:
        yield Finding("hybridopt", OK, own)
    else:
        there = "it is not" if own is None else f"{own} is"
        text = f"{__version__}, run from a folder; {there} installed, so what it needs is not known"
        yield Finding("hybridopt", WARN, text, INSTALL)
    needed = metadata.requires("hybridopt") or () if own == __version__ else KNOWN
    yield from required(needed, installed)
    yield triton(installed("triton"), machine.cuda)


def required(needed: Sequence[str], version: Callable[[str], str | None]) -> Iterator[Finding]:
    """Yield a line for every package that is needed.

    Args:
        needed: as metadata of packages has it ("torch>=2.10"); what only extras need is passed over.
        version: of a package; None where it is not installed.
    """
    from packaging.requirements import Requirement

    for one in map(Requirement, needed):
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        there, wanted = version(one.name), str(one.specifier)
        if there is None:
            yield Finding(one.name, FAIL, "not installed", f"pip install '{one.name}{wanted}'")
        elif not one.specifier.contains(there, prereleases=True):
            yield Finding(one.name, FAIL, f"{there}, and {wanted} is needed", f"pip install '{one.name}{wanted}'")
        else:
            yield Finding(one.name, OK, there)


def triton(version: str | None, cuda: bool) -> Finding:
    """Return the line about Triton, which GPUs alone need.

    Args:
        version: None where it is not installed.
        cuda: is a GPU examined?
    """
    if version is not None:
        return Finding("triton", OK, version)
    if not cuda:
        return Finding("triton", SKIPPED, "not installed; only GPUs need it")
    text = "not installed: updates are not compiled, slower, with the same results up to rounding"
    return Finding("triton", WARN, text, "pip install triton, or a torch for CUDA, which brings it")


CHECK = Check("versions", "versions", 0, _versions)
