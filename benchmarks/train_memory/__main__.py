"""Measure the peak memory of a whole training step at the shape of Llama-3-8B, for each method.

Random bfloat16 weights made on the device, one sequence, gradient checkpointing (not reentrant) where nothing else is
said. The peak is that of the steps after the first, forward, backward and update: on CUDA
torch.cuda.max_memory_allocated; on CPU, where only sizes made for a test run, weights and state plus what torch's
allocator hands out on top within a step. All methods are measured anew, and each is kept at once. --plan predicts the
peaks instead, on any machine.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from rich.table import Table

from ..shared.command_line import console, parser
from ..shared.environment import environment
from ..shared.llama import SETS
from ..shared.lost_device import add_go_on, end_if_lost, there
from ..shared.markdown import human
from ..shared.records import Records
from .measure import build, outcome
from .methods import METHODS
from .plan import planned


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    command = parser("train_memory", __doc__)
    command.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--set", choices=SETS, help="shapes (default: 8b on cuda, tiny on cpu)")
    command.add_argument("--sequence", type=int, help="tokens of the one sequence (default: 2048 on cuda, 32 on cpu)")
    command.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="methods to measure")
    command.add_argument("--minutes", type=float, default=10.0, help="after these, no further method is begun")
    command.add_argument("--plan", action="store_true", help="measure nothing: what is planned for each method")
    add_go_on(command)
    command.add_argument("--json", action="store_true", help="print the records instead of a table")
    command.add_argument("--table", action="store_true", help="only print what was measured before")
    options = command.parse_args(arguments)
    on_cuda = options.device == "cuda"
    options.set = options.set or ("8b" if on_cuda else "tiny")
    options.sequence = options.sequence or (2048 if on_cuda else 32)
    return options


def run(options: argparse.Namespace, records: Records, tell: Callable[[str], object]) -> None:
    """Measure every method asked for, and keep each result at once.

    Args:
        options: of the command line.
        records: where the results are kept, those from before not.
        tell: is called with a line for each.
    """
    end = time.monotonic() + 60 * options.minutes
    known = there(records, "method", options.go_on)
    model = build(options.set, options.device)
    settings = {"set": options.set, "device": options.device, "sequence": options.sequence, "batch": 1}
    for name in [name for name in options.only if name not in known]:
        row = outcome(model, METHODS[name], options.sequence) if time.monotonic() < end else {"failed": "no time left"}
        about = {"settings": settings, "environment": environment(device=options.device)}
        records.put({"method": name, "label": METHODS[name].label} | row | about)
        tell(f"{name}: {row['failed'] if 'failed' in row else human(int(row['peak_bytes']))}")
        end_if_lost(row)


def plan(options: argparse.Namespace, records: Records, tell: Callable[[str], object]) -> None:
    """Predict the peak of every method asked for, and keep each result at once.

    Args:
        options: of the command line.
        records: where the results are kept, those from before not.
        tell: is called with a line for each.
    """
    records.clear()
    settings = {"set": options.set, "device": options.device, "sequence": options.sequence, "batch": 1}
    for name in options.only:
        row = planned(METHODS[name], options.set, options.device, options.sequence)
        about = {"settings": settings, "environment": environment()}
        records.put({"method": name, "label": METHODS[name].label} | row | about)
        tell(f"{name}, planned: {row['failed'] if 'failed' in row else human(int(row['peak_bytes']))}")


def table(records: list[dict]) -> Table:
    """Return what was measured, for the terminal."""
    settings = records[0]["settings"]
    found = Table("method", title=f"peak of a training step, Llama {settings['set']}, {settings['sequence']} tokens")
    for column in ("peak", "first step's", "weights", "state", "s/step"):
        found.add_column(column, justify="right")
    for record in records:
        found.add_row(record["label"], *cells(record))
    return found


def cells(record: dict) -> list[str]:
    """Return one line of the table without its label."""
    if "failed" in record:
        return [f"failed: {record['failed'][:60]}"]
    sizes = [human(record[f"{key}_bytes"]) for key in ("peak", "first_peak", "weight", "state")]
    return [*sizes, f"{record['seconds']:.2f}"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    screen = console(stderr=options.json)
    if options.plan:
        plan(options, Records(options.out / "train_memory_plan.jsonl", ("method",)), screen.print)
        return
    records = Records(options.out / "train_memory.jsonl", ("method",))
    if not options.table:
        run(options, records, screen.print)
    print(json.dumps(records.some())) if options.json else screen.print(table(records.some()))


if __name__ == "__main__":
    main()
