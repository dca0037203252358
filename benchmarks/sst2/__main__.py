"""Fine-tune all-MiniLM-L6-v2 on SST-2 with each method: accuracy against bytes of optimizer state.

Each method has the same number of tries to find its learning rate (seed 0, by validation accuracy), then runs with
every seed at the best one; the table shows accuracy on GLUE's dev set, which no choice was made on. A run whose
record is there is not made again.
"""

import argparse
from pathlib import Path

import torch
from rich.progress import Progress

from ..shared.command_line import parser
from ..shared.places import DATA
from ..shared.schedule import bar
from . import table
from .bench import Bench
from .data import load_splits
from .methods import METHODS, Budget
from .search import chosen_lr, records_at


def measure(options: argparse.Namespace, progress: Progress) -> None:
    """Find every method's learning rate, then run the other seeds at it, seed by seed."""
    budget = Budget(steps=options.steps)
    records = records_at(options.out / "sst2.jsonl")
    bench = Bench(records, budget, load_splits(options.data, budget), progress)
    for name in options.only:
        bench.search(name, options.tries)
    for seed in options.seeds:
        for name in options.only:
            bench.record(name, chosen_lr(records, name), seed)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("sst2", __doc__)
    options.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="methods to run")
    options.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), help="seeds at the chosen rate")
    options.add_argument("--tries", type=int, default=4, help="learning rates tried for each method, at least 1")
    options.add_argument("--steps", type=int, default=Budget.steps, help="optimizer steps of every run")
    options.add_argument("--data", type=Path, default=DATA / "sst2", help="folder of the TSVs")
    options.add_argument("--threads", type=int, default=1, help="threads for torch")
    options.add_argument("--table", action="store_true", help="only write the table and the plot anew")
    return options.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if not options.table:
        with bar() as progress:
            measure(options, progress)
    records = records_at(options.out / "sst2.jsonl")
    print(table.publish(records, {name: method.label for name, method in METHODS.items()}))


if __name__ == "__main__":
    main()
