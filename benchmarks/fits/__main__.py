"""Tell what fits on which GPU: the table of the README, by the planner alone (nothing is loaded, no GPU is needed).

For each model and memory the way to train that is closest to AdamW on all weights, of those that `hybridopt plan`
knows, with one sequence of 2048 tokens in bfloat16.
"""

import argparse

from rich.progress import track

from hybridopt.core.errors import HybridOptError
from hybridopt.planning import Estimator, Request
from hybridopt.planning.subject.source import subject_of
from hybridopt.planning.ways.ways import VARIANTS, WAYS

from ..shared.command_line import parser
from ..shared.records import Records
from .table import BLOCK, FILE, MODELS, records_at, table


def ways(model: str) -> list[dict]:
    """Return every way with the peak of each of its variants, in bytes."""
    estimator, found = Estimator(subject_of(model)), []
    for way in WAYS:
        peaks = []
        for variant in VARIANTS:
            try:
                peaks.append(estimator.estimate(Request(**way.settings, **variant)).peak_bytes)
            except HybridOptError:
                break
        found.append({"title": way.title, "peaks": peaks})
    return found


def measure(records: Records, models: tuple[str, ...] = MODELS) -> None:
    """Plan the models that are not there yet, in order."""
    missing = [model for model in models if records.find(model=model) is None]
    for model in track(missing, description="planning"):
        records.put({"model": model, "ways": ways(model)})


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("fits", __doc__)
    options.add_argument("--write", action="store_true", help="put the table into the README")
    options.add_argument("--again", action="store_true", help="plan anew instead of taking what was planned before")
    return options.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    records = records_at(options.out / FILE)
    if options.again:
        records.clear()
    measure(records)
    if options.write:
        BLOCK.write(records.all())
    print(table(records.all()))


if __name__ == "__main__":
    main()
