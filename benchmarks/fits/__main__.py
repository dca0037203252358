"""Tell what fits on which GPU: the table of the README, by the planner alone (nothing is loaded, no GPU is needed).

For each model and memory the way to train that is closest to AdamW on all weights, of those that `hybridopt plan`
knows, with one sequence of 2048 tokens in bfloat16; where none fits, the first with layers that rest on the host.
"""

import argparse

from rich.progress import track

from hybridopt.core.errors import HybridOptError
from hybridopt.core.host import Host
from hybridopt.planning import Estimator, Request
from hybridopt.planning.subject.source import subject_of
from hybridopt.planning.ways.offloaded import placed_ways
from hybridopt.planning.ways.ways import VARIANTS, WAYS, Way

from ..shared.command_line import parser
from ..shared.records import Records
from .table import BLOCK, FILE, MODELS, records_at, table

ON_HOST = tuple(way for way in placed_ways("cuda", Host(0)) if way.placement and way.placement.base == "host")


def ways(model: str) -> list[dict]:
    """Return every way with the peak of each of its variants, in bytes; those that use the host last."""
    estimator = Estimator(subject_of(model))
    return [_peaks(estimator, way) for way in (*WAYS, *ON_HOST)]


def _peaks(estimator: Estimator, way: Way) -> dict:
    peaks, host = [], 0
    for variant in VARIANTS:
        try:
            found = estimator.estimate(Request(**way.settings, **variant))
        except HybridOptError:
            break
        peaks.append(found.peak_bytes)
        host = 0 if found.carried is None else found.carried.host
    return {"title": way.title, "peaks": peaks} | ({"host": host} if host else {})


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
