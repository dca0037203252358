"""What compilers make while training goes on, in threads that nobody waits for until it is asked for."""

import atexit
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import BoundedSemaphore, Thread
from typing import Any

from .compiler import forget, stop

__all__ = ["begin", "taken"]

SECONDS = 1.0  # that the end of the process waits for a compiler to be gone
_begun: dict[str, tuple[Future[Any], Thread]] = {}  # by text
_room = [BoundedSemaphore(os.cpu_count() or 1)]


def begin(text: str, make: Callable[[str], Any]) -> None:
    """Call `make(text)` in a thread of its own, unless that was begun already."""
    if text not in _begun:
        made: Future[Any] = Future()
        thread = Thread(target=_fulfil, args=(made, text, make), name="hybridopt-compiler", daemon=True)
        _begun[text] = made, thread
        thread.start()


def taken(text: str) -> Future[Any] | None:
    """Return what was begun for a text, once; None where nothing was."""
    made, _ = _begun.pop(text, (None, None))
    return made


def _fulfil(made: Future[Any], text: str, make: Callable[[str], Any]) -> None:
    try:
        with _room[0]:
            made.set_result(make(text))
    except BaseException as error:  # whoever asks for the result is told
        made.set_exception(error)


def _end() -> None:
    if _begun:
        stop()
    for _, thread in _begun.values():
        thread.join(SECONDS)


def _after_fork() -> None:
    """Forget threads and compilers, which a child does not have."""
    _begun.clear()
    _room[0] = BoundedSemaphore(os.cpu_count() or 1)
    forget()


atexit.register(_end)
if sys.platform != "win32":  # which has no forks
    os.register_at_fork(after_in_child=_after_fork)
