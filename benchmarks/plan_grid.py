"""Planned against measured peaks: policies x adapters and bases x release x checkpointing, on CPU-sized models.

Writes results/plan_grid.json and results/plan_grid.md. Cells that are there already are not measured again.
"""

import argparse
import itertools
import json
import logging
import statistics
import sys
import warnings
from pathlib import Path

import torch
from plan_measure import SOURCES, measure

from hybridopt.planning import Estimator, Request

HERE = Path(__file__).parent
FILE = "plan_grid"
POLICIES = {
    "adamw": {},
    "frugal": {"density": 0.25, "update_gap": 2},
    "galore": {"update_gap": 2},
    "adalomo": {},
    "signsgd": {},
    "adam_mini": {},
    "badam": {"update_gap": 2},
    "mezo": {},
}
BASES = {
    "full": (None, None),
    "int8-trainable": (None, "int8-trainable"),
    "lora": (8, None),
    "lora+nf4": (8, "nf4"),
    "lora+int8": (8, "int8"),
}
SIZE = {"seq_len": 64, "batch": 2, "device": "cpu"}
STEPS = {"badam": 14, "frugal": 3, "galore": 3}  # every layer has its turn; a second window


def cells(models: list[str]) -> dict[str, tuple[str, Request]]:
    """Every cell by its name."""
    found = {}
    axes = (models, POLICIES, BASES, ("accumulate", "fused"), (False, True))
    for model, policy, base, release, checkpointing in itertools.product(*axes):
        lora, quantization = BASES[base]
        how = {"lora": lora, "quantization": quantization, "release": release, "checkpointing": checkpointing}
        request = Request(policy=policy, options=POLICIES[policy], **how, **SIZE)
        found[f"{model} {policy} {base} {release}{' checkpointing' * checkpointing}"] = model, request
    return found


def compare(estimator: Estimator, request: Request) -> dict:
    """Planned and measured bytes, and their differences in percent."""
    planned = estimator.estimate(request)
    found = measure(estimator.source, request, STEPS.get(request.policy, 2))
    return {
        "planned": planned.peak_bytes,
        "ops": found.ops,
        "allocated": found.allocated,
        "stage": planned.stage,
        "error_ops": round(100 * (planned.peak_bytes / found.ops - 1), 3),
        "error_allocated": round(100 * (planned.peak_bytes / found.allocated - 1), 3),
    }


def run(models: list[str], out: Path) -> dict:
    """Measure what is missing; the document on disk grows with each cell."""
    path = out / f"{FILE}.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    estimators = {name: Estimator(SOURCES[name]) for name in models}
    for name, (model, request) in cells(models).items():
        if name not in document:
            document[name] = compare(estimators[model], request)
            path.write_text(json.dumps(document, indent=1) + "\n")
            print(f"{name}: {document[name]['error_ops']:+.2f} %", flush=True)
    return document


def report(document: dict) -> str:
    """The distribution of errors, and the largest, as Markdown."""
    lines = [
        "# Planned against measured peaks",
        "",
        "`python benchmarks/plan_grid.py`: models of 6 layers, width 256, 2 x 64 tokens, bfloat16, on a CPU. Error:",
        "planned / measured - 1. Op by op: every storage that an operation hands out; allocator: also buffers inside",
        "of kernels.",
        "",
        "| cells | counted | median | 95 % within | largest | within 3 % |",
        "|---|---|---|---|---|---|",
    ]
    for kind in sorted({name.split()[0] for name in document}):
        rows = [row for name, row in document.items() if name.startswith(f"{kind} ")]
        for key, label in (("error_ops", "op by op"), ("error_allocated", "by the allocator")):
            lines.append(f"| {kind} ({len(rows)}) | {label} | {_distribution([row[key] for row in rows])} |")
    worst = sorted(document.items(), key=lambda item: -abs(item[1]["error_ops"]))[:10]
    lines += ["", "Largest differences, op by op:", "", "| cell | planned | measured | error |", "|---|---|---|---|"]
    for name, row in worst:
        sizes = f"{row['planned'] / 2**20:.2f} MiB | {row['ops'] / 2**20:.2f} MiB"
        lines.append(f"| {name} | {sizes} | {row['error_ops']:+.2f} % |")
    return "\n".join(lines) + "\n"


def _distribution(errors: list[float]) -> str:
    sizes = sorted(map(abs, errors))
    most = sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))]
    largest = max(errors, key=abs)
    within = sum(size <= 3 for size in sizes)
    return f"{statistics.median(errors):+.2f} % | {most:.2f} % | {largest:+.2f} % | {within} of {len(sizes)}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    document = run(options.models, options.out)
    (options.out / f"{FILE}.md").write_text(report(document))


if __name__ == "__main__":
    sys.exit(main())
