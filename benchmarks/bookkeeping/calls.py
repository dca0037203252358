"""How many calls of hybridopt's functions some work makes."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType

FOLDERS = tuple(
    f"{Path(str(import_module(name).__file__)).parent}/" for name in ("hybridopt", "hybridopt.integrations")
)


class Calls:
    """Counts calls of functions of hybridopt within a `with` block, comprehensions and resumed generators too.

    Python code that torch calls from another thread is not seen.
    """

    def __init__(self):
        self.count = 0

    def __enter__(self) -> "Calls":
        self._before = sys.getprofile()
        sys.setprofile(self._see)
        return self

    def __exit__(self, *error) -> None:
        sys.setprofile(self._before)

    def _see(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(FOLDERS):
            self.count += 1


def calls_of(work: Callable[[], object]) -> int:
    """Return how many calls of hybridopt's functions some work makes."""
    with Calls() as calls:
        work()
    return calls.count
