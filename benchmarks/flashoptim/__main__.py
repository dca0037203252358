"""Compare AdamW with `bf16_split` and `companded8` with the package flashoptim: arithmetic, bytes, rounding, quality.

The package needs a CUDA device. Its own kernel is carried out by Triton's interpreter, and formulas in torch are held
against it bit by bit; all else is measured by the formulas. For that: `pip install --no-deps flashoptim==0.1.4
triton==3.6.0`, and TRITON_INTERPRET=1. Without them one row says what is missing. What is there is not made again.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..shared.command_line import console, parser
from ..shared.environment import environment
from ..shared.places import DATA
from ..shared.records import Records
from . import measure, quality, table
from .held import WAYS
from .quality import Run

PACKAGES = ("torch", "flashoptim", "triton", "transformers", "numpy")
SCALES = (None, 7e9)  # parameters of the model whose gradients' size is taken


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("flashoptim", __doc__)
    options.add_argument("--data", type=Path, default=DATA, help="folder of the text")
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the training runs")
    options.add_argument("--steps", type=int, default=Run.steps, help="steps of a training run")
    options.add_argument("--table", action="store_true", help="only write the table anew")
    return options.parse_args(arguments)


def records_at(folder: Path) -> Records:
    """Return the records: a part and a row each, of training runs also a seed and a size of gradients."""
    return Records(folder / "flashoptim.jsonl", ("part", "row", "seed", "parameters"))


def fill(records: Records, options: argparse.Namespace) -> None:
    """Measure what is not there yet."""
    keep(records, measure.bits, {}, part="bits", row="flashoptim")
    keep(records, measure.places, {}, part="places", row="both")
    for way in WAYS:
        keep(records, partial(measure.bytes_each, way), {}, part="bytes", row=way)
        keep(records, partial(_small, way), {}, part="small", row=way)
        keep(records, partial(measure.ended, way), {}, part="ended", row=way)
    for seed, parameters, way in product(options.seeds, SCALES, WAYS):
        run = Run(steps=options.steps, parameters=parameters)
        train = partial(quality.train, way, seed, run, options.data)
        keep(records, train, asdict(run), part="quality", row=way, seed=seed, parameters=parameters)


def _small(way: str) -> list[Any]:
    return [measure.small(way, size) for size in measure.SIZES]


def keep(records: Records, make: Callable[[], Any], settings: dict, **identity) -> None:
    """Measure once, and keep the record.

    Args:
        records: of everything.
        make: returns what is found.
        settings: that it must have been made with.
        **identity: part, row, and of a training run seed and parameters.
    """
    identity = {"seed": None, "parameters": None} | identity
    if records.find(settings, **identity) is None:
        found = make()
        records.put(identity | {"settings": settings, "found": found, "environment": environment(PACKAGES)})
        console().print(f"{list(identity.values())}: {found}", highlight=False, markup=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    options = parse(arguments)
    records = records_at(options.out)
    if not options.table:
        fill(records, options)
    print(table.publish(records))


if __name__ == "__main__":
    main()
