"""What compilers make while training goes on, in threads that nobody waits for until it is asked for."""

import atexit
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import BoundedSemaphore, Event, Thread
from time import monotonic
from typing import Any

from .compiler import CompilerError, forget, stop

__all__ = ["begin", "taken"]

SECONDS = 1.0  # that the end of the process waits for compilers to be gone
_begun: dict[str, tuple[Future[Any], Thread]] = {}  # by text
_room = [BoundedSemaphore(os.cpu_count() or 1)]
_ended = Event()  # the process: no compiler is started any more


def begin(text: str, make: Callable[[str], Any]) -> None:
    """Call `make(text)` in a thread of its own, unless that was begun already."""
    if text not in _begun:
        made: Future[Any] = Future()
        thread = Thread(target=_fulfil, args=(made, text, make), name="hybridopt-compiler", daemon=True)
        _begun[text] = made, thread
        thread.start()


def taken(text: str) -> Future[Any] | None:
    """Return what was begun for a text, once; None where nothing was, or it has failed: then it is worth another try.

    A compiler may have been stopped together with those that somebody waited for.
    """
    made, _ = _begun.pop(text, (None, None))
    return None if made is not None and made.done() and made.exception() else made


def _fulfil(made: Future[Any], text: str, make: Callable[[str], Any]) -> None:
    try:
        with _room[0]:
            if _ended.is_set():
                raise CompilerError("the process ends")
            made.set_result(make(text))
    except BaseException as error:  # whoever asks for the result is told
        made.set_exception(error)


def _end() -> None:
    _ended.set()
    until = monotonic() + SECONDS
    for _, thread in _begun.values():
        while thread.is_alive() and monotonic() < until:
            stop()  # again, as one may have been about to start
            thread.join(0.02)


def _after_fork() -> None:
    """Forget threads and compilers, which a child does not have."""
    _begun.clear()
    _room[0] = BoundedSemaphore(os.cpu_count() or 1)
    forget()


atexit.register(_end)
if sys.platform != "win32":  # which has no forks
    os.register_at_fork(after_in_child=_after_fork)
