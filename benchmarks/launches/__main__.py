"""Count launches, waits and copies of one step on a CUDA device that is not there; fails where a bound is broken.

Needs a CUDA build of torch, in a virtual environment of its own, and no GPU.
"""

import argparse

from ..shared.command_line import console, parser
from ..shared.environment import environment
from ..shared.llama import SETS
from ..shared.records import Records
from .measure import counts
from .rows import ROWS
from .table import broken, publish, records_at

SHOWN = 5  # lines of hybridopt, by kind


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("launches", __doc__)
    options.add_argument("--set", choices=SETS, default="8b", help="shapes; bounds are for those of 8b")
    options.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="what is counted")
    options.add_argument("--where", action="store_true", help="say which lines ask the most")
    options.add_argument("--table", action="store_true", help="only write the table anew")
    return options.parse_args(arguments)


def measure(options: argparse.Namespace, records: Records) -> None:
    """Count row by row, and keep each result at once."""
    shapes = SETS[options.set].shapes
    settings = {"set": options.set, "tensors": len(shapes)}
    for name in options.rows:
        found = counts(ROWS[name], shapes)
        records.put({"row": name, "counts": dict(found.of), "settings": settings, "environment": environment()})
        for kind, places in found.where.items() if options.where else ():
            console().print(f"{name}, {kind}: {dict(places.most_common(SHOWN))}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    records = records_at(options.out)
    if not options.table:
        measure(options, records)
    print(publish(records))
    over = [text for record in records.all() if record["settings"]["set"] == "8b" for text in broken(record)]
    if over:
        raise SystemExit("\n".join(over))


if __name__ == "__main__":
    main()
