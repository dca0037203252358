"""What fits on which GPU: the table of the README, by the planner alone (nothing is loaded, no GPU is needed).

For each model and memory the way to train that is closest to AdamW on all weights, of those that `hybridopt plan`
knows, with one sequence of 2048 tokens in bfloat16. `--write` puts the table into the README.
"""

import argparse
import json
from pathlib import Path

import readme
import results
from rich.progress import track

from hybridopt.core.errors import HybridOptError
from hybridopt.core.sizes import GIB
from hybridopt.planning import Estimator, Request
from hybridopt.planning.subject.model import subject_of
from hybridopt.planning.ways.ways import VARIANTS, WAYS

HERE = Path(__file__).parent
FILE = HERE / "results" / "fits.json"
MODELS = ("llama-3.2-1b", "llama-3.2-3b", "llama-3-8b", "qwen2.5-14b", "qwen2.5-32b", "llama-3-70b")
GPUS = (12, 16, 24, 40, 48, 80, 141)  # GiB


def ways(model: str) -> list[dict]:
    """Every way with the peak of each of its variants, in bytes."""
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


def measure(models: tuple[str, ...]) -> dict:
    """All models, in order."""
    return {"models": {name: ways(name) for name in track(models, description="planning")}}


def table(document: dict) -> str:
    """Markdown: a row for each model, a column for each GPU."""
    lines = ["| | " + " | ".join(f"{size} GiB" for size in GPUS) + " |", "|---" * (len(GPUS) + 1) + "|"]
    for name, found in document["models"].items():
        cells = (_cell(found, size * GIB) for size in GPUS)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nEvery cell is simulated, none is measured.\n"


def _cell(found: list[dict], room: int) -> str:
    """The first way of which a variant fits, with its peak, and c for checkpointing, f for fused release."""
    for way in found:
        for variant, peak in zip(VARIANTS, way["peaks"], strict=False):
            if peak <= room:
                marks = "c" * variant["checkpointing"] + "l" * bool(variant["chunk"])
                marks += "f" * (variant["release"] == "fused")
                return f"{way['title']} ({', '.join([f'{peak / GIB:.1f}', *marks])})"
    return "–"


BLOCK = readme.Block("fits", "python benchmarks/fits.py --write", table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the README")
    parser.add_argument("--again", action="store_true", help="plan anew instead of taking what was planned before")
    options = parser.parse_args(arguments)
    if options.again or not FILE.exists():
        results.save(FILE, measure(MODELS))
    document = json.loads(FILE.read_text())
    if options.write:
        BLOCK.write(document)
    print(table(document))


if __name__ == "__main__":
    main()
