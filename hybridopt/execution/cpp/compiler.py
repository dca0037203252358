"""The C++ compiler of this machine: which it is, how it is called, and what a kernel that it made depends on."""

import errno
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic

__all__ = ["FLAGS", "SKELETON", "Compiler", "CompilerError", "compiler", "forget", "processor", "stop", "wide"]

NAMES = ("g++", "clang++", "c++")
FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-fopenmp", "-march=native", "-w"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"),  # every sum as written
)
SECONDS = 60.0  # without work after which a compiler counts as hanging
WORK = 180.0  # seconds of processors after which it counts as endless: a kernel takes some ten
LOOKED = 1.0  # seconds between two looks
SHOWN = 300  # characters of what a compiler complains of
FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS)))
SKELETON = Path(__file__).parent / "skeleton"


_running: set[subprocess.Popen] = set()


class CompilerError(Exception):
    """No kernel was made: there is no compiler, or it failed, hung, or is too old."""


@dataclass(frozen=True)
class Compiler:
    """A compiler.

    Args:
        path: of the program.
        version: all that it says of itself.
        options: that the environment's CXX has behind the program.
    """

    path: str
    version: str
    options: tuple[str, ...] = ()

    @property
    def libraries(self) -> tuple[str, ...]:
        """Return the flag for the C++ library, which a C compiler leaves out (PEFT sets CXX=gcc for BOFT)."""
        if any("++" in Path(word).name for word in (self.path, *self.options)):
            return ()
        return ("-lc++",) if sys.platform == "darwin" else ("-lstdc++",)

    def compile(self, source: Path, out: Path, headers: Path, flags: tuple[str, ...] = FLAGS) -> None:
        """Make a shared library of a file.

        Args:
            source: the file.
            out: the library.
            headers: the folder of files that it includes.
            flags: of the compiler.

        Raises:
            CompilerError: that is not possible.
            OSError: there is no room for what it writes.
        """
        made = (f"-I{headers}", str(source), "-o", str(out), *self.libraries)
        _called([self.path, *self.options, *flags, *wide(), *made])
        if not out.is_file():
            raise CompilerError(f"{self.path} said that it has made {out.name}, and has not")


def compiler() -> Compiler:
    """Return the compiler: the environment's CXX, or the first of g++, clang++ and c++; CompilerError without one.

    As for make, CXX may have options behind the compiler's name, or begin with a program that calls it ("ccache g++").
    """
    return _compiler(os.environ.get("CXX", ""), os.environ.get("PATH", ""))


@cache
def _compiler(asked: str, _: str) -> Compiler:
    asking = ((asked,), _words(asked)) if asked else tuple((name,) for name in NAMES)
    found = [(path, *options) for name, *options in filter(None, asking) if (path := shutil.which(name))]
    if not found:
        raise CompilerError(f"there is no C++ compiler: looked for {asked or ', '.join(NAMES)}")
    path, *options = found[0]
    return Compiler(path, _called([path, *options, "--version"]), tuple(options))


def _words(asked: str) -> tuple[str, ...]:
    with suppress(ValueError):  # a quote that does not end
        return tuple(shlex.split(asked))
    return ()


@cache
def processor() -> str:
    """Return what says which instructions this processor has: kernels of another one may not run here."""
    with suppress(OSError):
        wanted = ("flags", "features", "model name", "cpu part")
        lines = Path("/proc/cpuinfo").read_text(errors="replace").lower().splitlines()
        told = {line for line in lines if line.split(":")[0].strip() in wanted}
        if told:
            return "\n".join([platform.machine(), *sorted(told)])
    return "\n".join([platform.system(), platform.machine(), platform.processor()])


@cache
def wide() -> tuple[str, ...]:
    """Return flags for the widest registers where the processor has them: compilers shy away from them."""
    return ("-mprefer-vector-width=512",) if " avx512vl" in processor() else ()


def stop() -> None:
    """End the compilers that this process has started, as nobody waits for them any more."""
    for process in list(_running):
        _end(process)


def forget() -> None:
    """Leave compilers alone that the parent of this process, which was forked, has started."""
    _running.clear()


def _end(process: subprocess.Popen) -> None:
    if sys.platform != "win32":
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # it has children of its own
    else:
        process.kill()


def _waited(process: subprocess.Popen) -> bytes:
    """Return what a program says once it has ended; CompilerError where it hangs.

    Its own work counts, not the time: on a machine with much to do all compilers are slow, and whether a run has the
    bits of compiled updates must not depend on that.
    """
    done, since = 0.0, monotonic()
    while True:
        try:
            said: bytes = process.communicate(timeout=min(LOOKED, SECONDS))[0]
            return said
        except subprocess.TimeoutExpired:
            work = _work(process.pid)
        if work > done:
            done, since = work, monotonic()
        if done > WORK:
            raise CompilerError(f"has not ended after {WORK:g} s of work")
        if monotonic() - since > SECONDS:
            raise CompilerError(f"has not ended after {SECONDS:g} s")


def _work(session: int) -> float:
    """Return the seconds of processors that a program and those it has called have taken; 0 where nobody says."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):  # it may end meanwhile
            told = path.read_text().rpartition(")")[2].split()
            if int(told[3]) == session:
                ticks += sum(map(int, told[11:15]))  # its own, and of those it has waited for
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0


def _called(command: list[str]) -> str:
    """Run a program, and return what it says; CompilerError where it fails or hangs."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise CompilerError(f"{command[0]} cannot be started: {error}") from error
    _running.add(process)
    try:
        said = _waited(process)
    except BaseException as error:
        _end(process)
        process.communicate()
        if isinstance(error, CompilerError):
            raise CompilerError(f"{command[0]} {error}") from None
        raise
    finally:
        _running.discard(process)
    text = said.decode(errors="replace").strip()
    if process.returncode:
        if any(full in text for full in FULL):
            raise OSError(f"{command[0]} failed ({process.returncode}): {text[-SHOWN:]}")
        lines = [line for line in text.splitlines() if "error" in line.lower()] or text.splitlines()[-1:]
        raise CompilerError(f"{command[0]} failed ({process.returncode}): {' '.join(lines)[:SHOWN]}")
    return text
