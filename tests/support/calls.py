"""How many functions of hybridopt a piece of work calls: a count, the same on every machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hybridopt
import hybridopt.integrations

PLACES = tuple(str(Path(package.__file__).parent) for package in (hybridopt, hybridopt.integrations))


@contextmanager
def counted() -> Iterator[list[str]]:
    """Collect the qualified name of every function of hybridopt that is called within the block, in order."""
    names: list[str] = []

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(PLACES):
            names.append(frame.f_code.co_qualname)

    sys.setprofile(profile)
    try:
        yield names
    finally:
        sys.setprofile(None)
