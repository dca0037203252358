"""The README's table of what fits."""

from pathlib import Path

from hybridopt.core.sizes import GIB
from hybridopt.planning.ways.ways import VARIANTS

from ..shared.places import RESULTS
from ..shared.readme_marks import Block
from ..shared.records import Records

FILE = "fits.jsonl"
MODELS = ("llama-3.2-1b", "llama-3.2-3b", "llama-3-8b", "qwen2.5-14b", "qwen2.5-32b", "llama-3-70b")
GPUS = (12, 16, 24, 40, 48, 80, 141)  # GiB


def records_at(path: Path = RESULTS / FILE) -> Records:
    """Return the records that lie in a file: a model each."""
    return Records(path, ("model",))


def table(records: list[dict]) -> str:
    """Return Markdown: a row for each model, a column for each GPU."""
    lines = ["| | " + " | ".join(f"{size} GiB" for size in GPUS) + " |", "|---" * (len(GPUS) + 1) + "|"]
    for record in records:
        cells = (_cell(record["ways"], size * GIB) for size in GPUS)
        lines.append(f"| {record['model']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nEvery cell is simulated, none is measured.\n"


def _cell(found: list[dict], room: int) -> str:
    """Return the first way of which a variant fits, its peak, and c for checkpointing, l for chunks, f for fused."""
    for way in found:
        for variant, peak in zip(VARIANTS, way["peaks"], strict=False):
            if peak <= room:
                marks = "c" * variant["checkpointing"] + "l" * bool(variant["chunk"])
                marks += "f" * (variant["release"] == "fused")
                return f"{way['title']} ({', '.join([f'{peak / GIB:.1f}', *marks])})"
    return "–"


BLOCK = Block("fits", "python -m benchmarks.fits --write", table)
