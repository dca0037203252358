"""From the records of subspaces to their table."""

from pathlib import Path

from ..shared.files import write
from ..shared.markdown import measured_with
from ..shared.markdown import table as markdown
from ..shared.records import Records

__all__ = ["publish", "records_for"]

HEADER = ["gradient", "rank", "spectrum", "SVD, ms", "first, ms", "later, ms", "random, ms"]
HEADER += ["SVD / later", "energy, first", "before", "later"]
NOTE = """
Milliseconds of processor time, one thread, float32: the exact SVD (solver="exact"); subspace iteration from noise, as
in the first window ("first"), and from the last basis, as in all others ("later"); and random directions. Energies:
the share of what the exact directions of the same rank hold of the gradient; "before": what the last basis holds of
the next gradient before it is renewed. Gradients are synthetic: singular values fall as 1 / k^p, and the gradients of
two windows share half of their energy.
"""
REAL_HEADER = ["steps before", "directions", "matrices", "energy, least", "median"]
REAL_NOTE = """
The first bases of all linear layers of a Llama (4 layers, width 384) on bytes of real text, before and after some
steps of AdamW: the share of what the exact directions hold of the gradient.
"""


def records_for(folder: Path) -> Records:
    """Return the records: one a shape, spectrum and density."""
    return Records(folder / "subspaces.jsonl", ("rows", "cols", "power", "density"))


def real_records_for(folder: Path) -> Records:
    """Return the records of real gradients: one a number of steps and density."""
    return Records(folder / "subspaces_real.jsonl", ("steps", "density"))


def publish(records: Records, real: Records) -> str:
    """Write .md beside the records; return the tables.

    Args:
        records: of synthetic gradients.
        real: of real ones.
    """
    found = records.some()
    table = markdown(HEADER, [_cells(record) for record in found])
    table += f"\n{REAL_NOTE}\n{markdown(REAL_HEADER, [_real_cells(record) for record in real.some()])}"
    measured = measured_with(found[0]["environment"])
    write(records.path.with_suffix(".md"), f"# New subspaces\n{NOTE}\n{table}\n{measured}")
    return table


def _cells(record: dict) -> list[str]:
    seconds, energies = record["seconds"], record["energies"]
    times = [f"{1000 * seconds[name]:.1f}" for name in ("exact", "first", "later", "random")]
    held = [f"{energies[name]:.5f}" for name in ("first", "before", "later")]
    shape, spectrum = f"{record['rows']} x {record['cols']}", f"1 / k^{record['power']:g}"
    return [shape, str(record["rank"]), spectrum, *times, f"{seconds['exact'] / seconds['later']:.1f}", *held]


def _real_cells(record: dict) -> list[str]:
    energies = [f"{record[name]:.5f}" for name in ("least", "median")]
    return [str(record["steps"]), f"{record['density']:.0%}", str(record["matrices"]), *energies]
