"""Pre-train a small Llama on real text with every ready policy: validation loss against bytes of optimizer state.

Each method tries the same number of learning rates with seed 0 (more only while the best one is the outermost), then
runs the other seeds at the best. Every run's record is a file of its own; a record that exists is not made again.
"""

import argparse
import math
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pretrain_table as tables
from pretrain_bench import Bench
from pretrain_budget import SIZES
from pretrain_methods import ready

HERE = Path(__file__).parent


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=ready(), default=list(ready()), help="methods to run")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds at the chosen rate")
    parser.add_argument("--tries", type=int, default=4, help="learning rates tried first, at least 1")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="60m: FRUGAL's LLaMA-60M, for a GPU")
    parser.add_argument("--steps", type=int, help="optimizer steps of every run, if not the size's own")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    parser.add_argument("--weights", choices=("float32", "bfloat16"), default="float32", help="dtype of the weights")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each a process of one thread")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run that would end later")
    parser.add_argument("--quick", action="store_true", help="20 steps, 2 tries, 1 seed, into a folder of its own")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data", help="folder of the text")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--table", action="store_true", help="only write the table and the plot anew")
    return parser.parse_args()


def bench_of(options: argparse.Namespace) -> Bench:
    """From the command line to what is to be run."""
    size = SIZES[options.size]
    budget = replace(size, device=options.device, weights=options.weights, steps=options.steps or size.steps)
    folder = options.out / ("pretrain" if options.size == "tiny" else f"pretrain_{options.size}")
    methods = {name: method for name, method in ready().items() if name in options.methods}
    if options.quick:
        folder, budget = folder.with_name(f"{folder.name}_quick"), replace(budget, steps=20, update_gap=5)
        return Bench(folder, options.data, budget, methods, 2, [0])
    return Bench(folder, options.data, budget, methods, options.tries, options.seeds)


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes of the pool
    options = parse()
    bench = bench_of(options)
    if not options.table:
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
            bench.measure(pool, options.jobs, options.minutes)
    settings = bench.budget.settings(next(iter(bench.methods.values())))
    print(tables.publish(bench.folder, ready(), {key: settings[key] for key in settings if key != "options"}))
    if bench.failed:
        raise SystemExit("\n".join(f"{name} failed: {why}" for name, why in bench.failed.items()))


if __name__ == "__main__":
    main()
