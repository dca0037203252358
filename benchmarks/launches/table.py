"""From the counts to their table, and to what breaks a bound."""

from pathlib import Path

from ..shared.files import write
from ..shared.markdown import measured_with, table
from ..shared.records import Records
from .measure import KINDS
from .rows import ROWS

__all__ = ["broken", "publish", "records_at"]

WORDS = {
    "compiled": "compiled calls",
    "launches": "launches besides",
    "waits": "waits",
    "copies": "copies waited for",
    "sent": "copies sent",
    "midway": "stops in backward",
}
TITLE = """# Launches: what one step asks of a CUDA device

Counted on tensors without memory, no GPU was used: the third step of all {tensors} tensors of Llama-3-{size}, bfloat16
weights rounded at random. A count and its bound, where there is one. Waits: the host stands until the device has
finished.
"""


def records_at(folder: Path) -> Records:
    """Return the records that lie in a folder, one a row."""
    return Records(folder / "launches.jsonl", ("row",))


def publish(records: Records) -> str:
    """Write .md beside the records; return the table."""
    found = records.some()
    settings = found[0]["settings"]
    lines = table(["row", *WORDS.values()], [_cells(record) for record in found])
    title = TITLE.format(size=settings["set"].upper(), tensors=settings["tensors"])
    write(records.path.with_suffix(".md"), "\n".join([title, lines, measured_with(found[0]["environment"])]))
    return lines


def broken(record: dict) -> list[str]:
    """Return a sentence for every bound that a record breaks."""
    most, found = ROWS[record["row"]].most, record["counts"]
    over = {kind: bound for kind, bound in most.items() if found.get(kind, 0) > bound}
    return [f"{record['row']}: {found[kind]:,} {WORDS[kind]}, at most {bound:,}" for kind, bound in over.items()]


def _cells(record: dict) -> list[str]:
    most, found = ROWS[record["row"]].most, record["counts"]
    bounds = {kind: f" ({most[kind]:,})" if kind in most else "" for kind in KINDS}
    return [record["row"], *(f"{found.get(kind, 0):,}{bounds[kind]}" for kind in KINDS)]
