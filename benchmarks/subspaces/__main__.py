"""Time finding the subspace of a gradient: by the exact SVD, by subspace iteration, and at random.

What is found is compared, too: the share of the gradient's energy that lies in it, of synthetic gradients and of those
of a small Llama on real text. All rows are measured anew, and each is kept at once.
"""

import argparse
from pathlib import Path

import torch

from ..shared.command_line import parser
from ..shared.environment import environment
from ..shared.places import DATA
from .measure import gradients, measure
from .real import STEPS, TEXT, gradients_of, held
from .table import publish, real_records_for, records_for

SHAPES = ("512x512", "1376x512", "1024x1024", "1024x4096")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    command = parser("subspaces", __doc__)
    command.add_argument("--shapes", nargs="+", default=list(SHAPES), help="of gradients, as in 512x1376")
    command.add_argument("--powers", type=float, nargs="+", default=[1.0, 0.5], help="p of the spectra 1 / k^p")
    command.add_argument("--density", type=float, default=0.25, help="share of the directions")
    command.add_argument("--rounds", type=int, default=5, help="measured calls a row")
    command.add_argument("--data", type=Path, default=DATA, help="folder of the text")
    command.add_argument("--measure", action="store_true", help="only measure, write no table")
    return command.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Measure every shape and spectrum, and keep each at once."""
    records = records_for(options.out)
    records.clear()
    torch.set_num_threads(1)
    for shape in options.shapes:
        rows, cols = map(int, shape.split("x"))
        for power in options.powers:
            found = measure(gradients(rows, cols, power), options.density, options.rounds)
            about = {"settings": {"rounds": options.rounds}, "environment": environment(device="cpu")}
            records.put({"rows": rows, "cols": cols, "power": power, "density": options.density, **found, **about})
    real = real_records_for(options.out)
    real.clear()
    for steps in STEPS:
        grads = gradients_of((options.data / TEXT).read_bytes(), steps)
        for density in (options.density, options.density / 4):
            about = {"settings": {"text": TEXT}, "environment": environment(device="cpu")}
            real.put({"steps": steps, "density": density, **held(grads, density), **about})


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    run(options)
    if not options.measure:
        print(publish(records_for(options.out), real_records_for(options.out)))


if __name__ == "__main__":
    main()
