"""Silence for the log messages of libraries."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_messages"]


@contextmanager
def without_messages(level: int = logging.WARNING) -> Iterator[None]:
    """Let no logger tell anything of this level or below it within.

    level: of the logging module.
    """
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)
