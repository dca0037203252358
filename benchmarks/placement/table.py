"""From the records of placement to their table."""

from pathlib import Path
from statistics import median

from ..shared.files import write
from ..shared.markdown import human, measured_with, table
from ..shared.records import Records
from .bounds import Bound, bounds
from .folder import SHAPES, layer_bytes, other_bytes

HEADER = ["what", "measured", "at most", ""]
NOTE = """
A Llama of {layers} layers of {layer}, {other} of other bfloat16 weights, {tokens} tokens a step, {slots} layers near
at a time, {threads} threads; the disk gives {speed}/s{direct}. LoRA of rank 8 on all linear layers, gradient
checkpointing, fused release, AdamW. "Cold": what is dropped is forgotten by the system's cache too, so that every
fetch reads the disk. Resident and placed steps take turns in one process; the ratio is the median over pairs. A step
of resident training takes {step:.2f} s, and to read what a placed one reads takes {reading:.2f} s of this disk. MeZO
has two layers near, and a third of the memory of its weights.
"""


def records_at(folder: Path) -> Records:
    """Return the records that lie in a folder: one for each measurement."""
    return Records(folder / "placement.jsonl", ("row",))


def lines(records: Records) -> list[Bound]:
    """Return what was measured against what must hold."""
    found = records.some()
    settings = found[0]["settings"]
    return bounds({record["row"]: record for record in found}, SHAPES[settings["shape"]], settings["slots"])


def publish(records: Records) -> str:
    """Write .md beside the records; return the table."""
    found = {record["row"]: record for record in records.some()}
    one = next(iter(found.values()))
    settings, shape = one["settings"], SHAPES[one["settings"]["shape"]]
    rows = table(HEADER, [[x.text, x.show(x.measured), x.show(x.bound), verdict(x)] for x in lines(records)])
    disk = found.get("disk", {"bytes_per_second": 0, "direct": True})
    cold, speed = found.get("cold"), disk["bytes_per_second"]
    note = NOTE.format(
        layers=shape.layers,
        layer=human(layer_bytes(shape)),
        other=human(other_bytes(shape)),
        tokens=settings["tokens"],
        slots=settings["slots"],
        threads=settings["threads"],
        speed=human(int(speed)),
        direct="" if disk["direct"] else " (buffered)",
        step=median(here for here, _ in cold["seconds"]) if cold else float("nan"),
        reading=cold["read"] / len(cold["seconds"]) / speed if cold and speed else float("nan"),
    )
    text = f"# Layers that rest on disk\n{note}\n{rows}\n{measured_with(one['environment'])}"
    write(records.path.with_suffix(".md"), text)
    return rows


def verdict(line: Bound) -> str:
    """Return what stands at the end of a line."""
    return "ok" if line.holds else "missed"
