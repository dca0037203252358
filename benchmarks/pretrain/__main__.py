"""Pre-train a small Llama on real text with every ready policy: validation loss against bytes of optimizer state.

Each method tries the same number of learning rates with seed 0 (more only while the best one is the outermost), then
runs the other seeds at the best. A run whose record is there is not made again.
"""

import argparse
import math
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from ..shared.command_line import parser
from ..shared.places import DATA
from . import table
from .bench import Bench
from .budget import SIZES
from .methods import ready
from .search import records_at


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("pretrain", __doc__)
    options.add_argument("--methods", nargs="+", choices=ready(), default=list(ready()), help="methods to run")
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds at the chosen rate")
    options.add_argument("--tries", type=int, default=4, help="learning rates tried first, at least 1")
    options.add_argument("--size", choices=SIZES, default="tiny", help="60m: FRUGAL's LLaMA-60M, for a GPU")
    options.add_argument("--steps", type=int, help="optimizer steps of every run, if not the size's own")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    options.add_argument("--weights", choices=("float32", "bfloat16"), default="float32", help="dtype of the weights")
    options.add_argument("--jobs", type=int, default=1, help="runs at a time, each a process of one thread")
    options.add_argument("--minutes", type=float, default=math.inf, help="start no run that would end later")
    options.add_argument("--quick", action="store_true", help="20 steps, 2 tries, 1 seed, into a file of its own")
    options.add_argument("--data", type=Path, default=DATA, help="folder of the text")
    options.add_argument("--measure", action="store_true", help="only train, write no table")
    options.add_argument("--table", action="store_true", help="only write the table and the plot anew")
    return options.parse_args(arguments)


def bench_of(options: argparse.Namespace) -> Bench:
    """Return what is to be run."""
    size = SIZES[options.size]
    budget = replace(size, device=options.device, weights=options.weights, steps=options.steps or size.steps)
    name = "pretrain" if options.size == "tiny" else f"pretrain_{options.size}"
    methods = {name: method for name, method in ready().items() if name in options.methods}
    tries, seeds = options.tries, options.seeds
    if options.quick:
        name, budget, tries, seeds = f"{name}_quick", replace(budget, steps=20, update_gap=5), 2, [0]
    return Bench(records_at(options.out / f"{name}.jsonl"), options.data, budget, methods, tries, seeds)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes of the pool
    options = parse(arguments)
    bench = bench_of(options)
    if not options.table:
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
            bench.measure(pool, options.jobs, options.minutes)
    if not options.measure:
        print(table.publish(bench.records, ready(), bench.budget.shared()))
    if bench.failed:
        raise SystemExit("\n".join(f"{name} failed: {why}" for name, why in bench.failed.items()))


if __name__ == "__main__":
    main()
