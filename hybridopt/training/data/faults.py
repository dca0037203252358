"""Bad rows, told by file and line: a few of them at once, so that one run finds more than one."""

from ...core.errors import HybridOptError

__all__ = ["Faults", "RowError"]

MOST = 3  # bad rows that are told before reading stops


class RowError(ValueError):
    """What is wrong with one row; whoever knows its file and line tells it."""


class Faults:
    """Bad rows found so far."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, text: str) -> None:
        """Note a bad row; HybridOptError with all of them where there are enough.

        where: file and line.
        """
        self.found.append(f"{where}: {text}")
        if len(self.found) == MOST:
            self.found.append(f"Reading stopped after {MOST} bad rows; there may be more.")
            self.check()

    def check(self) -> None:
        """Raise HybridOptError with all bad rows, if there are any."""
        if self.found:
            raise HybridOptError("\n".join(self.found))
