"""From the records of the step benchmark to its tables."""

from rich import box
from rich.table import Table

from ..shared.files import write
from ..shared.markdown import measured_with
from ..shared.markdown import table as markdown
from ..shared.records import Records
from .goals import goal, missed
from .measure import share_of_bandwidth
from .plot import draw
from .repeats import spread

Groups = dict[str, list[dict]]  # records in order of measurement, by device, set and dtype
HEADER = [
    "row",
    "ms",
    "times fused AdamW",
    "quartiles",
    "processes",
    "target",
    "missed by",
    "without finite check",
    "first step, s",
    "state, B/param",
    "share of copy bandwidth",
    "temporary, MB",
]
REASON = 100  # characters of why a row failed
SHORT = ["row", "ms", "ratio", "quartiles", "processes", "target", "missed"]
SHORT += ["no check", "first s", "B/param", "share", "temp MB"]
NOTE = """Every step is measured between two steps of torch's AdamW(fused=True) on the same weights and gradients;
"times fused AdamW" is the median of its time over the mean of both neighbours. A process has its memory where it
happens to lie, and that need not be equally fast: "processes" has the lowest and the highest ratio where a row was
measured in several, of which the median stands in the row. hybridopt checks that gradients are
finite (its default); one column shows it without. In bf16, hybridopt rounds weights at random, rows with +nearest to
nearest; other packages do as they do. "First step" holds making the optimizer and compilation (with whatever
compile caches already had). State is what the optimizer's tensors take. Share of bandwidth: the bytes of reading
gradients and of reading and writing weights and state once, over the time, over the copy bandwidth measured beside
each row. Temporary: the most that one step allocates on top, by torch's allocator.
In the set "python", 75 tensors are so small that a step is Python and calls; it should take at most 1 ms.
"""


def grouped(records: Records) -> Groups:
    """Return the records by group, the last name first; records of one index stay in the order of the file."""
    found: Groups = {}
    for record in sorted(records.some(), key=lambda record: record["index"]):
        found.setdefault(label(record["settings"]), []).append(record)
    return dict(sorted(found.items(), reverse=True))


def label(settings: dict) -> str:
    """Return the group that a record belongs to."""
    return f"{settings['device']}-{settings['set']}-{settings['dtype']}"


def publish(records: Records) -> Groups:
    """Write .md and .png beside the records; return the records by group, with what is derived from them."""
    found = grouped(records)
    parts = ["# The optimizer step against torch's fused AdamW\n", NOTE]
    for name, group in found.items():
        table = markdown(HEADER, [cells(record) for record in group])
        parts += [f"## {title(name, group)}\n", table, measured_with(group[0]["environment"])]
    write(records.path.with_suffix(".md"), "\n".join(parts))
    draw(found, records.path.with_suffix(".png"))
    return {name: [with_goal(record) for record in group] for name, group in found.items()}


def terminal(groups: Groups) -> list[Table]:
    """Return a table for the terminal a group; what missed its goal or failed is red."""
    found = []
    for name, records in groups.items():
        table = Table(*SHORT[:1], title=title(name, records), box=box.SIMPLE)
        for column in SHORT[1:]:
            table.add_column(column, justify="right")
        for record in records:
            table.add_row(*cells(record), style="red" if missed(record) or "failed" in record else None)
        found.append(table)
    return found


def cells(record: dict) -> list[str]:
    """Return one line of the table."""
    target, over = goal(record), missed(record)
    asked = ["" if target is None else f"{target:.2f}", "" if over is None else f"{over:.0%}"]
    if "failed" in record:
        return [record["row"], "failed", record["failed"][:REASON], "", "", *asked, *[""] * 5]
    ignore = record["variants"].get("ignore")
    return [
        record["row"],
        milliseconds(record["seconds"]),
        f"{record['ratio']:.2f}",
        "–".join(f"{value:.2f}" for value in record["ratio_quartiles"]),
        spread(record),
        *asked,
        f"{ignore['ratio']:.2f}" if ignore else "",
        f"{record['first_seconds']:.1f}",
        f"{record['state_bytes_per_parameter']:.3f}",
        f"{share_of_bandwidth(record):.2f}",
        f"{record['peak_temporary_bytes'] / 1e6:.1f}",
    ]


def milliseconds(seconds: float) -> str:
    """Return milliseconds, with more digits where a step is short."""
    return f"{1000 * seconds:.{1 if seconds >= 0.01 else 3}f}"


def title(name: str, records: list[dict]) -> str:
    """Return what stands above a group."""
    first = records[0]
    size = f"{first['parameters'] / 1e6:.3g}M parameters in {first['tensors']} tensors"
    return f"{name}: {size}, {first['settings']['threads']} threads"


def with_goal(record: dict) -> dict:
    """Return a record with what is derived from it."""
    if "failed" in record:
        return record | {"target": goal(record)}
    share = share_of_bandwidth(record)
    return record | {"target": goal(record), "missed_by": missed(record), "share_of_copy_bandwidth": share}
