"""Fine-tune a small language model on short and long reviews with MeZO, Addax, IP-SGD and AdamW, and compare.

Accuracy against CPU seconds and against bytes. The model is made first and cached. Each arm has the same number of
tries for its learning rate (and alpha), by validation accuracy with seed 0; then all seeds run at the best. A run
whose record is there is not made again.
"""

import argparse
import math
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from ..shared.command_line import parser
from ..shared.places import DATA
from ..shared.schedule import bar
from . import buried, cache, table
from .arms import ALL, OF_TASK
from .bench import Bench, Job
from .model import Recipe
from .search import records_at
from .task import TASKS


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("addax", __doc__)
    options.add_argument("--arms", nargs="+", choices=ALL, help="arms to run, by default all of the task")
    options.add_argument("--task", choices=TASKS, default="same", help="what the long ones are asked")
    options.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), help="seeds at the chosen setting")
    options.add_argument("--tries", type=int, default=5, help="settings tried for each arm, at least 1")
    options.add_argument("--steps", type=int, help="optimizer steps of a run, MeZO's are more")
    options.add_argument("--jobs", type=int, default=1, help="runs at a time, each a process of one thread")
    options.add_argument("--minutes", type=float, default=math.inf, help="start no run that would end later")
    options.add_argument("--data", type=Path, default=DATA, help="folder of the text")
    options.add_argument("--cache", type=Path, default=cache.CACHE, help="folder of the model made first")
    options.add_argument("--table", action="store_true", help="only write the table and the plot anew")
    return options.parse_args(arguments)


def prepare(options: argparse.Namespace, recipe: Recipe) -> Path:
    """Return where the model lies, made under a progress bar if it is not there yet."""
    with bar() as progress:

        def steps_bar(steps: int) -> Callable[[], None]:
            task = progress.add_task("the model that all runs begin with", total=steps)
            return lambda: progress.advance(task)

        if options.task == "buried":
            return buried.ready(options.data, buried.Reading(recipe), steps_bar, options.cache)
        return cache.ready(options.data, recipe, steps_bar, options.cache)


def file_of(options: argparse.Namespace) -> Path:
    """Return the file of the task's records; table and plot lie beside."""
    return options.out / ("addax.jsonl" if options.task == "same" else f"addax_{options.task}.jsonl")


def measure(options: argparse.Namespace) -> dict[str, str]:
    """Carry out what is missing; return which arms failed, and why."""
    recipe = buried.Reading().base if options.task == "buried" else Recipe()
    budget = TASKS[options.task]
    budget = replace(budget, steps=options.steps or budget.steps)
    job = Job(options.data, prepare(options, recipe), file_of(options), recipe, budget)
    bench = Bench(job, options.arms or list(OF_TASK[options.task]), options.tries, options.seeds)
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        bench.measure(pool, options.jobs, options.minutes)
    return bench.failed


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes of the pool
    options = parse(arguments)
    failed = {} if options.table else measure(options)
    print(table.publish(records_at(file_of(options))))
    if failed:
        raise SystemExit("\n".join(f"{name} failed: {why}" for name, why in failed.items()))


if __name__ == "__main__":
    main()
