"""Whether torch.compile makes kernels here."""

from collections.abc import Iterator

from ..compiling import Trial, trial
from ..examine import Check
from ..finding import FAIL, OK, SKIPPED, WARN, Finding
from ..machine import Machine

__all__ = ["CHECK", "compiler"]

CURES = {
    False: "install a C++ compiler (Debian: apt install g++), or set CXX to one",
    True: "install Triton (pip install triton) and a C compiler (Debian: apt install gcc)",
}


def _compiler(machine: Machine) -> Iterator[Finding]:
    if machine.compile:
        yield compiler(trial(machine.device), machine.cuda)
    else:
        yield Finding("torch.compile", SKIPPED, "left out, as --quick was asked for")


def compiler(tried: Trial, cuda: bool) -> Finding:
    """Return the line about torch.compile.

    Args:
        tried: how it went.
        cuda: is it for a GPU?
    """
    numbers = {"seconds": tried.seconds}
    if not tried.why:
        return Finding("torch.compile", OK, f"makes kernels ({tried.seconds:.1f} s for one)", numbers=numbers)
    if tried.survived:
        without = "updates go on without, slower, with the same results up to rounding"
        text = f"makes no kernels, so {without} ({tried.why})"
        return Finding("torch.compile", WARN, text, CURES[cuda], numbers)
    text = f"fails where updates would not go on without it ({tried.why})"
    return Finding("torch.compile", FAIL, text, f"{CURES[cuda]}; until then pass compile=False", numbers)


CHECK = Check("torch.compile", "kernels", 0, _compiler, compiles=True)
