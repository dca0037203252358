"""All attacks, and the table of what they found."""

import re
from datetime import UTC, datetime

from reliability import fuzz, interrupts, leaks, runs, saves

from support.attacks import Attack, Figures
from support.paths import ROOT

__all__ = ["ATTACKS", "table", "write"]

ATTACKS: dict[str, Attack] = {
    name: attack for file in (saves, runs, fuzz, interrupts, leaks) for name, attack in file.ATTACKS.items()
}
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def table(found: dict[str, Figures]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| attack | what must survive | tried | survived | lost | how it went |", "|---|---|--:|--:|--:|---|"]
    for name, figures in found.items():
        attack = ATTACKS[name]
        notes = ", ".join(f"{count} {what}" for what, count in sorted(figures.notes.items()))
        counts = f"{figures.tried} | {figures.survived} | {len(figures.lost)}"
        lines.append(f"| {name}: {attack.what} | {attack.survives} | {counts} | {notes} |")
    return "\n".join(lines) + "\n"


def write(found: dict[str, Figures]) -> None:
    """Put the figures into the page, with the date."""
    text = PAGE.read_text()
    figures = f"{BEGIN}\n{table(found)}\nTried on {datetime.now(UTC).date()}.\n{END}"
    PAGE.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: figures, text, flags=re.S))
