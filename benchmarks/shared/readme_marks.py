"""Tables that the README and the pages of docs/ show, each between two marks."""

from collections.abc import Callable
from pathlib import Path

from hybridopt.core.errors import HybridOptError

from .places import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


class Block:
    """What stands between `<!-- name: command -->` and `<!-- end of name -->`, on whichever page has these marks.

    Args:
        name: of the table.
        command: that writes it, for people who read the page's source.
        table: makes Markdown of the records that hold the numbers.
    """

    def __init__(self, name: str, command: str, table: Callable[[list[dict]], str]):
        self._start, self._end, self._table = f"<!-- {name}: {command} -->\n", f"<!-- end of {name} -->", table

    @property
    def page(self) -> Path:
        """Find the one page with the marks; HybridOptError if there is none, or a second one."""
        found = [page for page in PAGES if self._start in page.read_text(encoding="utf-8")]
        if len(found) != 1:
            raise HybridOptError(f"{self._start.strip()!r} must stand on one page; it stands on {len(found)}: {found}")
        return found[0]

    def into(self, text: str, records: list[dict]) -> str:
        """Return the text of the page with the table of these records."""
        before, after = text.index(self._start) + len(self._start), text.index(self._end)
        return f"{text[:before]}{self._table(records)}{text[after:]}"

    def write(self, records: list[dict]) -> None:
        """Put the table of these records into its page."""
        page = self.page
        page.write_text(self.into(page.read_text(encoding="utf-8"), records), encoding="utf-8")
