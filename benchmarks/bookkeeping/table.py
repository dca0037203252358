"""From the records of bookkeeping to their tables."""

from pathlib import Path
from statistics import median

from ..shared.files import write
from ..shared.markdown import measured_with, table
from ..shared.records import Records
from .llama import GOALS, LABELS
from .steps import METHODS, SIDE

CALLS_GOAL = 40  # a tensor and step
HEADER = [
    "row",
    "a step, ms",
    "µs a tensor beside the backend",
    "least – most",
    "goal",
    "torch AdamW fused, ms",
    "calls a tensor",
    "goal",
    "beside the backend",
]
HEADER_CALLS = ["a tiny Llama of 21 tensors", "calls", "goal"]


def records_at(folder: Path) -> Records:
    """Return the records that lie in a folder: a method over many tensors, or the calls of a model, each."""
    return Records(folder / "bookkeeping.jsonl", ("row",))


def publish(records: Records) -> str:
    """Write .md beside the records; return the tables."""
    found = records.some()
    steps = [record for record in found if record["row"] in METHODS]
    tables = table(HEADER, [cells(record) for record in steps])
    for record in found:
        if record["row"] not in METHODS:
            tables += "\n" + table(HEADER_CALLS, [call_cells(name, n) for name, n in record["calls"].items()])
    note = title(steps[0]) if steps else ""
    write(records.path.with_suffix(".md"), "\n".join([note, tables, measured_with(found[0]["environment"])]))
    return tables


def title(record: dict) -> str:
    """Return what stands above the tables."""
    settings = record["settings"]
    return f"""# Bookkeeping: what a step costs beside its backend

{settings["tensors"]} tensors of {SIDE} x {SIDE}, one thread, nonfinite="ignore". Microseconds a tensor: a step's time
less its time in the backend, by the number of tensors; median of {settings["rounds"]} steps, and of
{len(record["runs"])} runs of fresh optimizers, with the least and the most of those. Methods step in turns. Calls: of
functions of hybridopt in one step, those of the backend too, by the number of tensors.
"""


def cells(record: dict) -> list[str]:
    """Return one line of the table of steps."""
    method, tensors = METHODS[record["row"]], record["settings"]["tensors"]
    outside = sorted(1e6 * run["outside_seconds"] / tensors for run in record["runs"])
    whole, fused = (1000 * median(run[key] for run in record["runs"]) for key in ("seconds", "fused_seconds"))
    return [
        method.label,
        f"{whole:.1f}",
        f"{median(outside):.1f}",
        f"{outside[0]:.1f} – {outside[-1]:.1f}",
        f"{method.goal:g}",
        f"{fused:.1f}",
        f"{record['calls'] / tensors:.1f}",
        f"{CALLS_GOAL}",
        f"{record['calls_outside'] / tensors:.1f}",
    ]


def call_cells(name: str, count: int) -> list[str]:
    """Return one line of the table of calls."""
    return [LABELS[name], f"{count:,}", f"{GOALS[name]:,}" if name in GOALS else "–"]
