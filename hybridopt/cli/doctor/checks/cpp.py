"""Whether updates on the CPU can be compiled as C++ kernels."""

from collections.abc import Iterator

from ....execution.cpp.builder import Built, trial
from ..examine import Check
from ..finding import OK, SKIPPED, WARN, Finding
from ..machine import Machine

__all__ = ["CHECK", "cpp"]

NAME = "C++ kernels"


def _cpp(machine: Machine) -> Iterator[Finding]:
    if machine.compile:
        yield cpp(trial())
    else:
        yield Finding(NAME, SKIPPED, "left out, as --quick was asked for")


def cpp(tried: Built) -> Finding:
    """Return the line about C++ kernels.

    tried: how making one went.
    """
    numbers = {"seconds": tried.seconds}
    if tried.why:
        text = f"updates on the CPU go on without, slower, with the same results up to rounding ({tried.why})"
        cure = "install a C++ compiler (Debian: apt install g++), or set CXX to one"
        return Finding(NAME, WARN, text, cure, numbers)
    if tried.kept is None:
        text = "are made, and compiled anew by every process, as they cannot be kept"
        cure = "set HYBRIDOPT_KERNELS to a folder that only you can write to"
        return Finding(NAME, WARN, text, cure, numbers)
    text = f"are made by {tried.compiler} ({tried.seconds:.1f} s for one), and kept in {tried.kept}"
    return Finding(NAME, OK, text, numbers=numbers)


CHECK = Check(NAME, "kernels", 1, _cpp, compiles=True)
