"""Measure whole training steps of a model of Llama-3-70B's shape on one GPU, and predict them with the plan.

Random weights are made on the device layer by layer and quantized at once; sequences are random, one a step. The
peak is torch.cuda.max_memory_allocated over the steps after the first (on CPU, where only a tiny model runs: what
torch's allocator hands out). Every scenario has a process and a time limit of its own.

    python -m benchmarks.fit_70b                    on a machine with a GPU of 139 GiB: under five minutes there
    python -m benchmarks.fit_70b --simulate         on any machine: the full size with fake tensors, and no GPU
    python -m benchmarks.fit_70b --device cpu       a tiny model, to see that it works
    python -m benchmarks.fit_70b --write            only put what is there into the README
"""

import argparse
import json

import torch

from ..shared.command_line import console, parser
from .bench import run
from .scenarios import SCENARIOS
from .table import BLOCK, FILE, records_at, terminal


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    command = parser("fit_70b", __doc__)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one, or to simulate")
    command.add_argument("--size", choices=("70b", "tiny"), help="default: 70b on cuda, tiny on cpu")
    command.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    command.add_argument("--simulate", action="store_true", help="measure nothing: the plan's prediction at full size")
    command.add_argument("--measure-only", action="store_true", help="predict nothing; --simulate can later")
    command.add_argument(
        "--card", type=int, help="bytes of the card whose longest sequence is predicted, if not 80 GiB"
    )
    command.add_argument("--minutes", type=float, default=5.0, help="for all measurements together")
    command.add_argument("--seconds", type=int, help="time limit of every scenario instead of its own")
    command.add_argument("--write", action="store_true", help="only put what is there into the README")
    options = command.parse_args(arguments)
    options.device = options.device or ("cuda" if options.simulate or torch.cuda.is_available() else "cpu")
    options.size = options.size or ("70b" if options.device == "cuda" else "tiny")
    if options.size == "70b" and options.device == "cpu" and not (options.simulate or options.write):
        command.error("--size 70b --device cpu would take days; take --simulate")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    screen, records = console(width=150), records_at(options.out / FILE)
    if options.write:
        BLOCK.write(records.some())
    else:
        run(options, records, screen.print)
    screen.print(terminal(records.some()))
    print(json.dumps(records.all()))


if __name__ == "__main__":
    main()
