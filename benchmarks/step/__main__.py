"""Measure the optimizer step of every hybridopt policy and of the original packages against torch's fused AdamW.

One process a set and dtype measures all rows; a row whose record is there, and did not fail, is not measured again.
With --processes several measure all rows anew, and what was there is replaced.
Table and plot are written from all records that are there.
"""

import argparse
import json
import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from ..shared.command_line import console, parser
from ..shared.lost_device import add_go_on
from ..shared.processes import run_module
from .pages import BLOCKS
from .repeats import middle
from .rows import COMPILE, DTYPES, fitting_none, measure, records_at, settings_of, wanted
from .sets import SETS
from .table import publish, terminal


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    command = parser("step", __doc__)
    command.add_argument("--threads", type=int, default=2, help="threads for torch")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command.add_argument("--set", nargs="+", choices=SETS, dest="sets", help="(default: 60m on cpu, 1b on cuda)")
    command.add_argument("--dtypes", nargs="+", choices=DTYPES, help="(default: fp32 and bf16 on cpu, bf16 on cuda)")
    command.add_argument(
        "--only", help="patterns of row names, split by | (default: all, or those that decide the set)"
    )
    command.add_argument("--skip", default="", help="patterns of row names to leave out, split by |")
    command.add_argument("--pairs", type=int, default=15, help="measured steps a row, fewer for slow ones")
    command.add_argument("--compile", choices=COMPILE, default="auto", help="given to HybridOptimizer")
    command.add_argument("--minutes", type=float, default=60.0, help="after these, no further row is begun")
    command.add_argument("--row-seconds", type=float, default=300.0, help="after these, a row has failed")
    command.add_argument(
        "--compile-seconds",
        type=float,
        default=1800.0,
        help="for a package to compile kernels, before its row",
    )
    command.add_argument(
        "--processes", type=int, default=1, help="measure rows in so many processes anew; the median ratio is kept"
    )
    add_go_on(command)
    command.add_argument("--json", action="store_true", help="print the records instead of tables")
    command.add_argument("--table", action="store_true", help="only write table and plot anew")
    command.add_argument("--write", action="store_true", help="the same, and into the README and docs/benchmarks.md")
    command.add_argument("--measure", action="store_true", help="only measure, write no table")
    command.add_argument("--list", action="store_true", help="only print the names of the rows")
    options = command.parse_args(arguments)
    if options.only and (unknown := fitting_none(options.only)):
        command.error(f"--only: no row fits {', '.join(unknown)}; --list prints all names")
    if options.processes < 1 or (options.processes > 1 and options.measure):
        command.error("--processes: give 1 or more, and more than 1 without --measure")
    options.sets = options.sets or ["1b" if options.device == "cuda" else "60m"]
    options.set = options.sets[0]
    options.dtypes = options.dtypes or (["bf16"] if options.device == "cuda" else ["fp32", "bf16"])
    return options


def in_processes(options: argparse.Namespace, arguments: list[str]) -> None:
    """Measure each set in each dtype, in a process of its own and with an equal share of the time that is left."""
    end = time.monotonic() + 60 * options.minutes
    groups = list(product(options.sets, options.dtypes))
    for position, (size, dtype) in enumerate(groups):
        share = (end - time.monotonic()) / 60 / (len(groups) - position)
        own = [*arguments, "--processes", "1", "--set", size, "--dtypes", dtype, "--measure"]
        if options.processes == 1:
            run_step([*own, "--minutes", str(share)], options)
        else:
            check_settings(options, size, dtype)
            repeat([*own, "--minutes", str(share / options.processes)], options)


def repeat(own: list[str], options: argparse.Namespace) -> None:
    """Measure rows in several processes, whatever records are there, and keep of every row that of the median ratio.

    What is measured is kept after every process, also after one that fails.

    Args:
        own: the options of each process.
        options: of the command line.
    """
    measured, records = [], records_at(options.out)
    for _ in range(options.processes):
        with TemporaryDirectory() as folder:
            try:
                run_step([*own, "--out", folder], options)
            finally:
                measured.append(records_at(Path(folder)).all())
                for record in middle(measured):
                    records.put(record)


def check_settings(options: argparse.Namespace, size: str, dtype: str) -> None:
    """Raise ValueError where a record of a set in a dtype was made with other settings, beside which none may stand.

    Args:
        options: of the command line.
        size: of SETS.
        dtype: of DTYPES.
    """
    records, settings = records_at(options.out), settings_of(options, dtype) | {"set": size}
    for record in records.all():
        if all(record["settings"].get(key) == settings[key] for key in ("device", "set", "dtype")):
            records.check(record, settings)


def run_step(own: list[str], options: argparse.Namespace) -> None:
    """Measure in another process."""
    run_module("step", own, stdout=sys.stderr if options.json else None, check=True)


def show(options: argparse.Namespace, screen: Console) -> None:
    """Write what is there, and print it."""
    records = records_at(options.out)
    groups = publish(records)
    for block in BLOCKS if options.write else ():
        block.write(records.all())
    if options.json:
        print(json.dumps({"groups": groups}))
        return
    for table in terminal(groups):
        screen.print(table)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    screen = console(stderr=options.json)
    one = len(options.sets) == len(options.dtypes) == options.processes == 1
    if options.list:
        screen.print("\n".join({name: None for dtype in options.dtypes for name in wanted(options, dtype)}))
    elif options.measure or (one and not (options.table or options.write)):
        measure(options, options.dtypes[0], screen)
    elif not (options.table or options.write):
        in_processes(options, sys.argv[1:] if arguments is None else arguments)
    if not options.list and not options.measure:
        show(options, screen)


if __name__ == "__main__":
    main()
