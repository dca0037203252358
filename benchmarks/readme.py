"""Tables that the README and the pages of docs/ show, between two marks each."""

from collections.abc import Callable
from pathlib import Path

from hybridopt.core.errors import HybridOptError

__all__ = ["PAGES", "Block"]

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


class Block:
    """What stands between `<!-- name: command -->` and `<!-- end of name -->`, on whichever page has these marks.

    Args:
        name: of the table.
        command: that writes it, for people who read the page's source.
        table: Markdown of the document that holds the numbers.
    """

    def __init__(self, name: str, command: str, table: Callable[[dict], str]):
        self._start, self._end, self._table = f"<!-- {name}: {command} -->\n", f"<!-- end of {name} -->", table

    @property
    def page(self) -> Path:
        """Find the one page with the marks. Raises HybridOptError if there is none, or a second one."""
        found = [page for page in PAGES if self._start in page.read_text()]
        if len(found) != 1:
            raise HybridOptError(f"{self._start.strip()!r} must stand on one page; it stands on {len(found)}: {found}")
        return found[0]

    def into(self, text: str, document: dict) -> str:
        """Return the text of the page with the table of this document."""
        before, after = text.index(self._start) + len(self._start), text.index(self._end)
        return f"{text[:before]}{self._table(document)}{text[after:]}"

    def write(self, document: dict) -> None:
        """Put the table of this document into its page."""
        page = self.page
        page.write_text(self.into(page.read_text(), document))
