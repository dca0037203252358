"""Tables that the README shows, between two marks each."""

from collections.abc import Callable
from pathlib import Path

__all__ = ["FILE", "Block"]

FILE = Path(__file__).parent.parent / "README.md"


class Block:
    """What stands in the README between `<!-- name: command -->` and `<!-- end of name -->`; table: of a document."""

    def __init__(self, name: str, command: str, table: Callable[[dict], str]):
        self._start, self._end, self._table = f"<!-- {name}: {command} -->\n", f"<!-- end of {name} -->", table

    def into(self, readme: str, document: dict) -> str:
        """The README with the table of this document."""
        before, after = readme.index(self._start) + len(self._start), readme.index(self._end)
        return f"{readme[:before]}{self._table(document)}{readme[after:]}"

    def write(self, document: dict) -> None:
        """Into the file."""
        FILE.write_text(self.into(FILE.read_text(), document))
