"""Measure what a step costs beside its backend: microseconds and calls a tensor, and the calls of probes.

Everything is measured anew, and each result is kept at once.
"""

import argparse
import json
from typing import Any

import torch

from ..shared.command_line import parser
from ..shared.environment import environment
from ..shared.records import Records
from . import llama
from .steps import METHODS, TENSORS, calls, run
from .table import publish, records_at


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("bookkeeping", __doc__)
    options.add_argument("--runs", type=int, default=7, help="runs of fresh optimizers; medians are shown")
    options.add_argument("--rounds", type=int, default=25, help="steps of each optimizer in a run")
    options.add_argument("--tensors", type=int, default=TENSORS, help="tensors of an optimizer")
    options.add_argument("--json", action="store_true", help="print the records instead of the tables")
    options.add_argument("--table", action="store_true", help="only write the tables anew")
    return options.parse_args(arguments)


def measure(options: argparse.Namespace, records: Records) -> None:
    """Count calls, then time steps, and keep each result at once."""
    records.clear()
    about = {"settings": {"tensors": options.tensors, "rounds": options.rounds}, "environment": environment()}
    found: dict[str, dict[str, Any]] = {}
    for name in METHODS:
        spent = calls(name, options.tensors)
        found[name] = {"row": name, "calls": spent.total, "calls_outside": spent.outside, "runs": []} | about
    records.put({"row": "llama", "calls": llama.counts()} | about)
    for _ in range(options.runs):
        for name, times in run(options.rounds, options.tensors).items():
            found[name]["runs"].append(times)
            records.put(found[name])


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    torch.set_num_threads(1)
    records = records_at(options.out)
    if not options.table:
        measure(options, records)
    tables = publish(records)
    print(json.dumps(records.all()) if options.json else tables)


if __name__ == "__main__":
    main()
