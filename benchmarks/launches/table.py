"""From the counts to their table, and to what breaks a bound."""

from pathlib import Path

from ..shared.files import write
from ..shared.markdown import measured_with, table
from ..shared.records import Records
from .machine_table import kernel_records, kernel_table
from .rows import BOUND, EVERY, RANK, ROWS, SHAPES, WINDOWS

__all__ = ["broken", "publish", "records_at"]

WORDS = {
    "compiled": "compiled calls",
    "launches": "launches besides",
    "waits": "waits",
    "copies": "copies waited for",
    "sent": "copies sent",
    "midway": "stops in backward",
}
TITLE = f"""# Launches: what one step asks of a CUDA device

Counted on tensors without memory, no GPU was used: the third step of all {len(SHAPES["8b"])} tensors of Llama-3-8B,
bfloat16 weights rounded at random. A count and its bound, where there is one. Compiled calls: of a kernel, or of a
graph of some. Waits: the host stands until the device has finished. Copies sent: nothing waits for them. Stops in
backward: waits, and copies waited for, while gradients are released.
"""
SECOND = f"""
Every policy and release, two layers of LLaMA-60M ({len(SHAPES["full"])} tensors), and the same of its LoRA matrices of
rank {RANK} ({len(SHAPES["LoRA"])} tensors). An operation on tensors of two devices would be an error here.
"""
THIRD = """
Fused release, the same two layers, every step the first of a window: columns, blocks or subspaces are chosen anew.
What waits is the SVD, and the decomposition of a small matrix that puts directions in order (`torch.linalg.eigh`):
where a subspace is found for the first time, and for qgalore each time. Everything else is products and QR.
"""


def records_at(folder: Path) -> Records:
    """Return the records that lie in a folder, one a row."""
    return Records(folder / "launches.jsonl", ("row",))


def publish(records: Records) -> str:
    """Write .md beside the records; return the tables."""
    kernels = kernel_records(records.path.parent)
    found = {record["row"]: record for record in records.all()}
    measured = [*found.values(), *kernels.all()] or records.some()
    head = ["row", *WORDS.values()]
    parts = []
    for title, rows in ((TITLE, BOUND), (SECOND, EVERY), (THIRD, WINDOWS)):
        parts += [title, table(head, [_cells(found[name]) for name in rows if name in found])]
    said = [f"- {name}: {text}" for name in EVERY if (text := _said(found.get(name, {})))]
    parts += ["\nRefused or failed:\n", *said, ""] if said else []
    parts.append(kernel_table(kernels))
    text = "\n".join([*parts, measured_with(measured[0]["environment"])])
    write(records.path.with_suffix(".md"), text)
    return text


def broken(record: dict) -> list[str]:
    """Return a sentence for every bound that a record breaks, and for an error."""
    most, found = ROWS[record["row"]].most, record["counts"]
    over = {kind: bound for kind, bound in most.items() if found.get(kind, 0) > bound}
    lines = [f"{record['row']}: {found[kind]:,} {WORDS[kind]}, at most {bound:,}" for kind, bound in over.items()]
    failed = "error" in found or (record["row"] not in EVERY and "refused" in found)
    return [*lines, *([f"{record['row']}: {_said(record)}"] if failed else [])]


def _said(record):
    counts = record.get("counts", {})
    return " ".join((counts.get("error") or counts.get("refused") or "").split())


def _cells(record: dict) -> list[str]:
    most, found = ROWS[record["row"]].most, record["counts"]
    if "error" in found or "refused" in found:
        return [record["row"], *(["refused" if "refused" in found else "failed"] + [""] * (len(WORDS) - 1))]
    bounds = {kind: f" ({most[kind]:,})" if kind in most else "" for kind in WORDS}
    return [record["row"], *(f"{found.get(kind, 0):,}{bounds[kind]}" for kind in WORDS)]
