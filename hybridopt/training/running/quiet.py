"""Silence for what libraries say beside the run's own lines: progress bars, log messages, warnings."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ...core.errors import HybridOptWarning
from ...core.silence import without_messages

__all__ = ["quietly"]


@contextmanager
def quietly(note: Callable[[str], object] | None = None, told: Sequence[str] = ()) -> Iterator[None]:
    """Let libraries say nothing within; this library's own warnings go to `note`.

    Args:
        note: is called with the text of every HybridOptWarning; None: they are shown as ever.
        told: lines that were shown before; a warning that is part of one is not noted again.
    """
    with ExitStack() as undo:
        undo.enter_context(_without_bars())
        undo.enter_context(without_messages())
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", HybridOptWarning)
        if note is not None:
            warnings.showwarning = _telling(note, told)
        yield


def _telling(note: Callable[[str], object], told: Sequence[str]) -> Callable[..., None]:
    def show(message: Warning | str, *_: object, **__: object) -> None:
        if not any(str(message) in line for line in told):
            note(str(message))

    return show


@contextmanager
def _without_bars() -> Iterator[None]:
    """Switch off every progress bar that is made within: all libraries make theirs by tqdm."""
    from tqdm.std import tqdm

    before = tqdm.__init__

    def silent(self, *args, **kwargs):
        before(self, *args, **{**kwargs, "disable": True})

    tqdm.__init__ = silent
    try:
        yield
    finally:
        tqdm.__init__ = before
