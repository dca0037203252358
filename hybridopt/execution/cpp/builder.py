"""From the text of a kernel to a function that can be called: from the cache, or by the compiler."""

import ctypes
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from os import cpu_count
from pathlib import Path
from time import perf_counter, sleep

from ...core.errors import HybridOptWarning
from . import ahead
from .cache import LIBRARY, SOURCE, KernelFolder, folder
from .compiler import FLAGS, SKELETON, CompilerError, compiler, processor, stop, wide

__all__ = ["Built", "available", "begin", "build", "function", "give_up", "refused", "trial", "usable"]

HEADERS = "skeleton"  # beside the source, while that is compiled
ENTRY, LOOK = "hybridopt_run", "hybridopt_look"  # the latter of rules with rounds, and of the check
CURE = "Install g++ (or name a compiler in CXX), or pass compile=False to be silent"
UNCOMPILED = "are not compiled, and slower; last bits of weights may differ from those of a run that compiles them"
OTHER = "Other updates are compiled; start again if it was slow, name another compiler in CXX, or pass compile=False"
TITLE = "// Printed from "
TRIAL = '#include "chunks.h"\nextern "C" void hybridopt_run(const Given*) {}\n'
# What kernels include, by name, read with the code that calls them: an upgrade may change the files during a run.
_skeleton = {path.name: path.read_text(encoding="utf-8") for path in sorted(SKELETON.glob("*.h"))}
Functions = dict[str, Callable[..., None]]  # of a library, by name
_built: dict[str, Functions] = {}  # by text
_found: set[str] = set()  # something, once there is a compiler
_missing: list[CompilerError] = []  # why there is none
_failed: set[str] = set()
refused: set[str] = set()  # texts that this compiler does not take, while it takes others
_told: set[str] = set()
_temporary: list[tempfile.TemporaryDirectory[str]] = []


def available() -> bool:
    """Return whether there is a compiler that has not failed yet; warn once where there is none."""
    if not usable() and not _failed:
        give_up(_missing[0])
    return not _failed


def usable() -> bool:
    """Return what `available` does, without a warning: for what is as good without kernels."""
    if not (_failed or _found or _missing):
        try:
            compiler()
            _found.add("")
        except CompilerError as error:
            _missing.append(error)
    return not (_failed or _missing)


def give_up(error: Exception) -> None:
    """Note that kernels cannot be made here, and warn once."""
    _failed.add("")
    _tell(f"updates {UNCOMPILED} ({error}). {CURE}")


def function(text: str, entry: str = ENTRY) -> Callable[..., None] | None:
    """Return what `build` has made of a text; None where that was not possible.

    Args:
        text: of the kernel.
        entry: ENTRY or LOOK.
    """
    return _built.get(text, {}).get(entry)


def begin(texts: Iterable[str]) -> None:
    """Begin to make the kernels of several texts that are not known yet; `build` waits for them."""
    for text in texts:
        if not (text in _built or text in refused or _failed):
            ahead.begin(text, _made)


def build(texts: Iterable[str]) -> None:
    """Make the kernels of several texts at the same time, those that are not known yet.

    Where one cannot be made it warns, once: that text is `refused` from then on. If not even a small one can be made,
    kernels are not `available` any more.
    """
    new = [text for text in dict.fromkeys(texts) if not (text in _built or text in refused)]
    if not new or not available():
        return
    with ThreadPoolExecutor(max(1, min(len(new), cpu_count() or 1))) as pool:
        made: list[Future[Functions]] = []
        try:
            for text in new:
                made.append(ahead.taken(text) or pool.submit(_made, text))
            for text, one in zip(new, made, strict=True):
                _take(text, one)
                if not available():
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
        except BaseException:  # such as Ctrl-C, for which compilers, in sessions of their own, would not end
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(one.done() for one in made):  # one may be about to start
                stop()
                sleep(0.02)
            raise


def _take(text: str, made: Future[Functions]) -> None:
    """Wait for the kernel of a text, and note it, or why there is none."""
    try:
        _built[text] = made.result()
    except (CompilerError, OSError, AttributeError) as error:
        if trial().why:
            return give_up(error)
        refused.add(text)
        what = text.splitlines()[0].removeprefix(TITLE).rstrip(".")
        _tell(f"updates of {what} {UNCOMPILED} ({error}). {OTHER}")


@dataclass(frozen=True)
class Built:
    """How making a kernel went.

    Args:
        seconds: that it took.
        why: it was not possible; "" if it was.
        compiler: that was called.
        kept: the folder of kernels; None where they cannot be kept.
    """

    seconds: float = 0.0
    why: str = ""
    compiler: str = ""
    kept: Path | None = None


def trial() -> Built:
    """Compile a small kernel anew, and look whether kernels can be kept."""
    start = perf_counter()
    try:
        path = compiler().path
        with tempfile.TemporaryDirectory(prefix="hybridopt-kernels-") as at:
            _compiled(KernelFolder(Path(at)), TRIAL, _inputs(TRIAL))
    except (CompilerError, OSError) as error:
        return Built(perf_counter() - start, str(error))
    seconds = perf_counter() - start
    with suppress(OSError, RuntimeError):
        return Built(seconds, compiler=path, kept=_in_cache(folder()).path)
    return Built(seconds, compiler=path)


def _made(text: str) -> Functions:
    inputs, place = _inputs(text), _place()
    try:
        library = place.load(inputs) or _compiled(place, text, inputs)
    except OSError as error:  # a disk that is full, or from which nothing may be run
        library = _compiled(_of_this_process(), text, inputs)
        _tell_unkept(error)
    made: Functions = {entry: library[entry] for entry in ((ENTRY, LOOK) if LOOK in text else (ENTRY,))}
    for run in made.values():
        run.argtypes, run.restype = [ctypes.c_void_p], None  # type: ignore[attr-defined]
    return made


def _inputs(text: str) -> dict[str, str]:
    """Return all that the kernel of a text depends on."""
    known = compiler()
    return {
        "text": text,
        "skeleton": "\n".join(_skeleton.values()),
        "flags": " ".join((*FLAGS, *wide())),
        "compiler": "\n".join([known.path, *known.options, *known.libraries, known.version]),
        "processor": processor(),
    }


def _compiled(place: KernelFolder, text: str, inputs: dict[str, str]) -> ctypes.CDLL:
    begun = place.begin()
    try:
        _write(begun, text)
        compiler().compile(begun / SOURCE, begun / LIBRARY, begun / HEADERS)
        shutil.rmtree(begun / HEADERS)
        place.put(begun, inputs)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    try:
        return place.made(inputs)
    except OSError as error:
        raise OSError(f"what was compiled cannot be loaded from {place.path}: {error}") from error


def _write(begun: Path, text: str) -> None:
    """Write a kernel and what it includes: the headers that its name is a digest of, whatever the files are now."""
    (begun / HEADERS).mkdir()
    for name, header in _skeleton.items():
        (begun / HEADERS / name).write_text(header, encoding="utf-8")
    (begun / SOURCE).write_text(text, encoding="utf-8")


def _place() -> KernelFolder:
    """Return the folder of kernels; one of this process alone, with a warning, where that cannot be used."""
    try:
        return _in_cache(folder())
    except (OSError, RuntimeError) as error:  # the latter where there is no home
        _tell_unkept(error)
        return _of_this_process()


@cache
def _in_cache(path: Path) -> KernelFolder:
    return KernelFolder(path)


@cache
def _of_this_process() -> KernelFolder:
    _temporary.append(tempfile.TemporaryDirectory(prefix="hybridopt-kernels-", ignore_cleanup_errors=True))
    return KernelFolder(Path(_temporary[-1].name))


def _tell_unkept(error: Exception) -> None:
    _tell(
        f"compiled updates cannot be kept ({error}), and are compiled anew by every process. Set HYBRIDOPT_KERNELS to "
        "a folder with room that only you can write to"
    )


def _tell(text: str) -> None:
    if text not in _told:
        _told.add(text)
        with suppress(UnicodeError):
            warnings.warn(text, HybridOptWarning, stacklevel=2)
