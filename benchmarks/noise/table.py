"""From the records of the cost of noise to their table."""

from pathlib import Path
from statistics import median

from ..shared.files import write
from ..shared.markdown import measured_with
from ..shared.markdown import table as markdown
from ..shared.records import Records

TARGET = 2.0  # times p.add_(z): of compiled Rademacher noise
HEADER = ["call", "dtype", "threads", "ns per element", "times p.add_(z)", "p.add_(z), ns per element"]
NOTE = f"""
One call over one parameter of {{millions:.0f}}M elements, far more than any cache holds, in place. "Times p.add_(z)"
is the median of its time over the mean of both neighbours, where z is a tensor of the parameter's dtype; "ns per
element" is the median by itself. normal_ + add_: MeZO's way, z drawn anew into memory that is kept (MeZO itself
allocates it every time). decay: with weight decay, in float64. Goal: compiled Rademacher noise in at most {TARGET:g}
times p.add_(z).
"""


def records_for(folder: Path, device: str) -> Records:
    """Return the records of a device: a call, dtype and number of threads each."""
    name = "noise" if device == "cpu" else f"noise_{device}"
    return Records(folder / f"{name}.jsonl", ("call", "dtype", "threads"))


def publish(records: Records) -> str:
    """Write .md beside the records; return the table."""
    found = records.some()
    settings, environment = found[0]["settings"], found[0]["environment"]
    table = markdown(HEADER, [cells(record) for record in found])
    measured = measured_with({key: value for key, value in environment.items() if key != "threads"})
    note = NOTE.format(millions=settings["elements"] / 1e6)
    write(records.path.with_suffix(".md"), f"# The cost of noise ({settings['device']})\n{note}\n{table}\n{measured}")
    return table


def cells(record: dict) -> list[str]:
    """Return one line of the table."""
    elements = record["settings"]["elements"]
    own, add = (f"{1e9 * median(record[key]) / elements:.3f}" for key in ("seconds", "add_seconds"))
    return [record["call"], record["dtype"], str(record["threads"]), own, f"{record['ratio']:.2f}", add]
