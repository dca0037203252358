"""Time what adding noise to a large parameter costs, against adding a tensor that is already there.

Every call is timed between two calls of p.add_(z); the table holds medians. All rows are measured anew, and each is
kept at once.
"""

import argparse
import json
from fnmatch import fnmatchcase
from functools import partial

import torch

from ..shared.command_line import parser
from ..shared.environment import environment
from ..shared.lost_device import is_lost
from .measure import DTYPES, calls, outcome
from .table import publish, records_for


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    command = parser("noise", __doc__)
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command.add_argument("--threads", type=int, nargs="+", help="threads for torch (default: 1 2 on cpu, 1 on cuda)")
    command.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    command.add_argument("--elements", type=int, default=1 << 26, help="of the parameter")
    command.add_argument("--rounds", type=int, default=9, help="measured calls a row")
    command.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="patterns of calls")
    command.add_argument("--measure", action="store_true", help="only measure, write no table")
    command.add_argument("--json", action="store_true", help="print the records instead of the table")
    options = command.parse_args(arguments)
    options.threads = options.threads or ([1, 2] if options.device == "cpu" else [1])
    return options


def run(options: argparse.Namespace) -> None:
    """Measure every call, dtype and number of threads, and keep each at once."""
    records = records_for(options.out, options.device)
    records.clear()
    settings = {"device": options.device, "elements": options.elements, "rounds": options.rounds}
    for dtype in options.dtypes:
        p, z = (torch.randn(options.elements, device=options.device).to(DTYPES[dtype]) for _ in range(2))
        for threads in options.threads:
            torch.set_num_threads(threads)
            for name, call in calls(p, z).items():
                if not any(fnmatchcase(name, pattern) for pattern in options.only):
                    continue
                found = outcome(call, partial(p.add_, z), options.rounds, options.device)
                about = {"settings": settings, "environment": environment(device=options.device)}
                records.put({"call": name, "dtype": dtype, "threads": threads, **found, **about})
                if is_lost(found.get("failed", "")):
                    raise SystemExit(f"{name}: {found['failed']}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    run(options)
    records = records_for(options.out, options.device)
    table = "" if options.measure else publish(records)
    print(json.dumps(records.all()) if options.json else table)


if __name__ == "__main__":
    main()
