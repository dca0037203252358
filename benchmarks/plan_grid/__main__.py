"""Compare planned with measured peaks: policies x adapters and bases x release x checkpointing, on CPU-sized models.

Cells that are there already are not measured again.
"""

import argparse
import logging
import warnings

import torch

from hybridopt.planning import Estimator, Request

from ..shared.command_line import parser
from ..shared.files import write
from ..shared.records import Records
from .cells import STEPS, cells
from .measure import SOURCES, measure
from .ranks import RANK_CELLS, on_ranks, wide
from .report import report, report_ranks


def compare(estimator: Estimator, request: Request) -> dict:
    """Return planned and measured bytes, and their differences in percent."""
    planned = estimator.estimate(request)
    found = measure(estimator.source, request, STEPS.get(str(request.policy), 2))
    return {
        "planned": planned.peak_bytes,
        "ops": found.ops,
        "allocated": found.allocated,
        "stage": planned.stage,
        "error_ops": round(100 * (planned.peak_bytes / found.ops - 1), 3),
        "error_allocated": round(100 * (planned.peak_bytes / found.allocated - 1), 3),
    }


def run(models: list[str], records: Records) -> None:
    """Measure the cells that are missing, and keep each at once."""
    there = {record["cell"] for record in records.all()}
    estimators = {name: Estimator(SOURCES[name]) for name in models}
    for name, (model, request) in cells(models).items():
        if name not in there:
            record = {"cell": name} | compare(estimators[model], request)
            records.put(record)
            print(f"{name}: {record['error_ops']:+.2f} %", flush=True)


def run_ranks(records: Records) -> None:
    """Measure the cells of several processes that are missing."""
    there = {record["cell"] for record in records.all()}
    for ranks in sorted({request.gpus for _, request in RANK_CELLS.values()}):
        left = {n: cell for n, cell in RANK_CELLS.items() if cell[1].gpus == ranks and n not in there}
        found = on_ranks(ranks, left) if left else {}
        for name, (width, request) in left.items():
            planned = Estimator(wide(width)).estimate(request)
            errors = [round(100 * (planned.peak_bytes / x - 1), 3) for x in found[name]]
            records.put({"cell": name, "planned": planned.peak_bytes, "allocated": found[name], "errors": errors})


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("plan_grid", __doc__)
    options.add_argument("--models", nargs="+", choices=SOURCES, default=list(SOURCES))
    options.add_argument("--ranks", action="store_true", help="processes that train together, in place of one")
    return options.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.ranks:
        records = Records(options.out / "plan_ranks.jsonl", ("cell",))
        run_ranks(records)
        write(records.path.with_suffix(".md"), report_ranks(records.all()))
        return
    records = Records(options.out / "plan_grid.jsonl", ("cell",))
    run(options.models, records)
    write(records.path.with_suffix(".md"), report(records.all()))


if __name__ == "__main__":
    main()
