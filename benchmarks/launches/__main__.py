"""Count launches, waits and copies of one step on a CUDA device that is not there; fails where a bound is broken.

Needs a CUDA build of torch, in a virtual environment of its own, and no GPU.
"""

import argparse
import importlib.util

import torch

from ..shared.command_line import console, parser
from ..shared.environment import environment
from ..shared.records import Records
from .machine_table import MADE, faults, kernel_records, measure_bits, measure_kernels
from .measure import counted
from .rows import BOUND, EVERY, ROWS, WINDOWS
from .table import broken, publish, records_at

SHOWN = 5  # lines of hybridopt, by kind
PARTS = {"bounds": BOUND, "policies": EVERY, "windows": WINDOWS}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("launches", __doc__)
    parts = [*PARTS, "kernels"]
    options.add_argument(
        "--part",
        choices=parts,
        nargs="+",
        default=parts,
        help="rows with bounds, every policy, first steps of windows, kernels",
    )
    options.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help="count these alone")
    options.add_argument("--where", action="store_true", help="say which lines ask the most")
    options.add_argument("--table", action="store_true", help="only write the table anew")
    return options.parse_args(arguments)


def measure(options: argparse.Namespace, records: Records) -> None:
    """Count row by row, and keep each result at once."""
    chosen = [name for part in options.part for name in PARTS.get(part, ())]
    for name in [name for name in chosen if name in (options.rows or chosen)]:
        row = ROWS[name]
        found, counts = counted(row)
        records.put({"row": name, "counts": found, "settings": {"shapes": row.shapes}, "environment": environment()})
        for kind, places in counts.where.items() if options.where else ():
            console().print(f"{name}, {kind}: {dict(places.most_common(SHOWN))}")


def check(parts: list[str]) -> None:
    """Raise SystemExit, before any result is written, where this environment cannot count.

    parts: that are asked for.
    """
    lacks = [] if torch.version.cuda else [f"a CUDA build of torch (this is {torch.__version__})"]
    lacks += ["triton"] if "kernels" in parts and importlib.util.find_spec("triton") is None else []
    if lacks:
        raise SystemExit(f"needs {' and '.join(lacks)}; benchmarks/README.md tells how to make an environment with it")


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    records = records_at(options.out)
    if not options.table:
        check(options.part)
        measure(options, records)
        if "kernels" in options.part:
            measure_kernels(kernel_records(options.out), [n for n in MADE if n in (options.rows or MADE)])
        if "kernels" in options.part and not options.rows:
            measure_bits(kernel_records(options.out))
    print(publish(records))
    over = [text for record in records.all() for text in broken(record)]
    over += [text for record in kernel_records(options.out).all() for text in faults(record)]
    if over:
        raise SystemExit("\n".join(over))


if __name__ == "__main__":
    main()
