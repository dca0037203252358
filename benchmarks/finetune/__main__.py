"""Fine-tune with every policy, all weights and LoRA, on small real tasks: quality against bytes of optimizer state.

Each method tries learning rates a factor of three apart with seed 0, more while the best is the outermost, then runs
the other seeds at the best; examples that choose a rate are not those that are reported. A run whose record is there
is not made again, so that what was stopped goes on.
"""

import argparse
import math
import multiprocessing
import os
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from ..shared.command_line import parser
from ..shared.places import DATA
from . import table
from .bench import Bench
from .methods import METHODS, MODES, PLAN
from .pages import BLOCKS
from .search import Row, records_at
from .tasks import tasks


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("finetune", __doc__)
    options.add_argument("--tasks", nargs="+", choices=tasks(), default=list(tasks()), help="tasks to run")
    options.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="what is trained")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="methods to run")
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds at the chosen rate")
    options.add_argument("--jobs", type=int, default=1, help="runs at a time, each a process of one thread")
    options.add_argument("--minutes", type=float, default=math.inf, help="start no run that would end later")
    options.add_argument("--data", type=Path, default=DATA, help="folder of all data")
    options.add_argument("--table", action="store_true", help="only write the tables and plots anew")
    options.add_argument("--write", action="store_true", help="the same, and into the README and docs/benchmarks.md")
    return options.parse_args(arguments)


def stages(options: argparse.Namespace) -> list[list[Row]]:
    """Return the rows that are asked for, in the order of the plan; those of a stage are run side by side."""
    found = []
    for task, mode, names in PLAN:
        if task in options.tasks and mode in options.modes:
            found.append([Row(task, mode, name) for name in names if name in options.methods])
    return found


def pool_of(jobs: int) -> Executor:
    """Return what carries out runs: processes of one thread each, or this process where one at a time will do."""
    if jobs == 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes of the pool
    options = parse(arguments)
    bench = Bench(records_at(options.out / "finetune.jsonl"), options.data, tasks(), options.seeds)
    if not options.table and not options.write:
        end = time.monotonic() + 60 * options.minutes
        with pool_of(options.jobs) as pool:
            for rows in stages(options):
                bench.measure(rows, pool, options.jobs, (end - time.monotonic()) / 60)
    print(table.publish(bench.records, bench.tasks))
    if options.write:
        for block in BLOCKS:
            block.write(bench.records.all())
    if bench.failed:
        raise SystemExit("\n".join(f"{name} failed: {why}" for name, why in bench.failed.items()))


if __name__ == "__main__":
    main()
