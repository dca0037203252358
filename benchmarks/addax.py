"""Fine-tune a small language model on short and long reviews with MeZO, Addax, IP-SGD and AdamW, and compare.

Accuracy against CPU seconds and against bytes. The model is made first and cached. Each arm has the same number of
tries for its learning rate (and alpha), by validation accuracy with seed 0; then all seeds run at the best. Every
run's record is a file of its own; a record that exists is not made again.
"""

import argparse
import math
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import addax_model
import addax_table
from addax_arms import ARMS
from addax_bench import Bench, Job
from addax_train import TASKS
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

HERE = Path(__file__).parent


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="arms to run")
    parser.add_argument("--task", choices=TASKS, default="same", help="what the long ones are asked")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), help="seeds at the chosen setting")
    parser.add_argument("--tries", type=int, default=5, help="settings tried for each arm, at least 1")
    parser.add_argument(
        "--steps", type=int, default=TASKS["same"].steps, help="optimizer steps of a run, MeZO's are more"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each a process of one thread")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run that would end later")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data", help="folder of the text")
    parser.add_argument("--cache", type=Path, default=addax_model.CACHE, help="folder of the model made first")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--table", action="store_true", help="only write the table and the plot anew")
    return parser.parse_args()


def prepare(options: argparse.Namespace, recipe: addax_model.Recipe) -> Path:
    """Return where the model lies, made under a progress bar if it is not there yet."""
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:

        def bar(steps: int) -> Callable[[], None]:
            task = progress.add_task("the model that all runs begin with", total=steps)
            return lambda: progress.advance(task)

        return addax_model.ready(options.data, recipe, bar, options.cache)


def folder_of(options: argparse.Namespace) -> Path:
    """Where the records of the task lie; its table lies beside."""
    return options.out / ("addax" if options.task == "same" else f"addax_{options.task}")


def measure(options: argparse.Namespace) -> dict[str, str]:
    """Carry out what is missing; return which arms failed, and why."""
    recipe = addax_model.Recipe()
    budget = replace(TASKS[options.task], steps=options.steps)
    job = Job(options.data, prepare(options, recipe), folder_of(options), recipe, budget)
    bench = Bench(job, options.arms, options.tries, options.seeds)
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        bench.measure(pool, options.jobs, options.minutes)
    return bench.failed


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes of the pool
    options = parse()
    failed = {} if options.table else measure(options)
    print(addax_table.publish(folder_of(options)))
    if failed:
        raise SystemExit("\n".join(f"{name} failed: {why}" for name, why in failed.items()))


if __name__ == "__main__":
    main()
