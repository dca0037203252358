"""torch.compile at import time of other libraries, put off until what they compile is called."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from types import FunctionType
from typing import Any

import torch

from .patching import instead

__all__ = ["compiled_later"]


@contextmanager
def compiled_later() -> Iterator[None]:
    """Let functions that `torch.compile` is given within the `with` be set up for it when they are first called.

    Setting up imports the whole compiler, which takes most of the time of importing bitsandbytes.
    """
    with instead(torch, "compile", _later(torch.compile)):
        yield


def _later(compiled: Callable[..., Any]) -> Callable[..., Any]:
    def wait(function: Any = None, **options: Any) -> Any:
        if not isinstance(function, FunctionType):
            return compiled(function, **options)
        made = cache(lambda: compiled(function, **options))

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return made()(*args, **kwargs)

        return call

    return wait
