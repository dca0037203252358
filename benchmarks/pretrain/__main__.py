"""Pre-train a small Llama on real text with every method: held-out loss against bytes of optimizer state.

Of every method short runs find a learning rate and a factor on that of embeddings and output layer; full runs confirm
the rate, and other seeds follow at the best. A run whose record is there is not made again, so a call goes on where
the last one was ended, at whatever moment.
"""

import argparse
import math
import multiprocessing
import os
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..shared.command_line import parser
from ..shared.places import DATA
from . import table
from .bench import Bench, records_at
from .fitting import fitted
from .methods import ready
from .rows import STUDIES, rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("pretrain", __doc__)
    options.add_argument("--methods", nargs="+", choices=ready(), default=list(ready()), help="methods to run")
    own = [name for name in STUDIES if name != "60m"]
    options.add_argument("--studies", nargs="+", choices=STUDIES, default=own, help="sizes of models and batches")
    options.add_argument(
        "--at", nargs=2, type=float, metavar=("RATE", "FACTOR"), help="no search: full runs there alone"
    )
    options.add_argument("--fit", action="store_true", help="as many tokens a run as --minutes allow for all")
    options.add_argument("--seeds", nargs="+", type=int, help="the search's, then those at the best, if not all")
    options.add_argument("--unconfirmed", action="store_true", help="no full runs at the rates beside the best yet")
    options.add_argument("--tokens", type=int, help="tokens of every full run, if not the study's own")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    options.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    options.add_argument("--minutes", type=float, default=math.inf, help="start no run that would end later")
    options.add_argument("--data", type=Path, default=DATA, help="folder of the text")
    options.add_argument("--measure", action="store_true", help="only train, write no table")
    options.add_argument("--table", action="store_true", help="only write the table and the plot anew")
    options.add_argument("--write", action="store_true", help="put the table into the docs, too")
    return options.parse_args(arguments)


def bench_of(options: argparse.Namespace) -> Bench:
    """Return what is to be run."""
    file = "pretrain" if options.device == "cpu" else "gpu_pretrain"
    records = records_at(options.out / f"{file}.jsonl")
    methods = {name: method for name, method in ready().items() if name in options.methods}
    changes = {"device": options.device} | ({"tokens": options.tokens} if options.tokens else {})
    budgets = {name: replace(study.budget, **changes) for name, study in STUDIES.items()}
    fields: dict[str, Any] = {"seeds": tuple(options.seeds)} if options.seeds else {}
    fields |= {"at": tuple(options.at)} if options.at else {}
    fields |= {"brackets": 0} if options.unconfirmed else {}
    made = rows(methods, options.studies, budgets, **fields)
    if options.fit:
        made = fitted(made, records.all(), 60 * options.minutes, options.data)
    return Bench(records, options.data, made)


def pool_of(jobs: int) -> Executor:
    """Return where runs take place: for one at a time a thread, so that nothing outlives this process."""
    return ThreadPoolExecutor(1) if jobs == 1 else ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes of the pool
    options, start = parse(arguments), time.monotonic()
    bench = bench_of(options)
    if not options.table:
        left = options.minutes - (time.monotonic() - start) / 60
        with pool_of(options.jobs) as pool:
            bench.measure(pool, options.jobs, left)
    if not options.measure:
        print(table.publish(bench.records))
    if options.write:
        table.BLOCK.write(bench.records.some())
    if bench.failed:
        raise SystemExit("\n".join(f"{name} failed: {why}" for name, why in bench.failed.items()))


if __name__ == "__main__":
    main()
