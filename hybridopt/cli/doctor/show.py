"""The table of findings, and the sentence below it."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from .finding import FAIL, OK, SKIPPED, WARN, Finding

__all__ = ["findings_table", "verdict"]

MARKS = {OK: "[green]ok[/green]", WARN: "[yellow]warn[/yellow]", FAIL: "[red]FAIL[/red]", SKIPPED: "[dim]-[/dim]"}


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return a table with a section for every kind; cures stand below what they are for."""
    table = Table("", "", "found")
    for kind, some in groupby(findings, key=lambda one: one.kind):
        table.add_section()
        table.add_row(f"[bold]{kind}[/bold]", "", "")
        for one in some:
            cure = f"\n[bold]-> {escape(one.cure)}[/bold]" if one.cure and one.state in (WARN, FAIL) else ""
            table.add_row(escape(one.name), MARKS[one.state], escape(one.value) + cure)
    return table


def verdict(findings: Sequence[Finding], seconds: float) -> str:
    """Return what all findings come to; seconds: that they took."""
    count = Counter(one.state for one in findings)
    found = [f"{count[state]} {word}" for state, word in ((FAIL, "failed"), (WARN, "to look at")) if count[state]]
    return f"{', '.join(found) or 'Nothing is wrong'}; {count[OK]} ok, {count[SKIPPED]} left out, in {seconds:.0f} s."
