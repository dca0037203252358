"""The pages that people read, and the code on them."""

import re
from dataclasses import dataclass
from pathlib import Path

from support.paths import ROOT

PAGES = tuple(
    sorted(
        [
            *ROOT.glob("*.md"),
            *(ROOT / "docs").rglob("*.md"),
            *(ROOT / "hybridopt").rglob("README.md"),
            ROOT / "benchmarks" / "README.md",
        ]
    )
)
FENCE = re.compile(r"(?:^<!-- (fragment|continues)\b[^\n]*-->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Code between fences.

    mark: "fragment" (no program: it only parses), "continues" (the block before, in its namespace), or "" (a program).
    """

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def compiled(self):
        """Code whose tracebacks name the page and its lines."""
        return compile("\n" * self.line + self.text, str(self.page), "exec")


def blocks(page, language=None):
    """All blocks of a page, or those of a language, in order."""
    text = page.read_text()
    found = (Block(page, text.count("\n", 0, m.start(2)) + 1, m[2], m[1] or "", m[3]) for m in FENCE.finditer(text))
    return [block for block in found if language in (None, block.language)]


def programs(page):
    """Lists of Python blocks that run one after the other in one namespace."""
    found = []
    for block in blocks(page, "python"):
        if block.mark == "continues":
            found[-1].append(block)
        elif not block.mark:
            found.append([block])
    return found


def commands():
    """Lines of all blocks for the shell, on all pages."""
    lines = (line for page in PAGES for block in blocks(page, "bash") for line in block.text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
