"""The README's table of what fits."""

from pathlib import Path

from hybridopt.core.budget import budget
from hybridopt.core.sizes import GIB
from hybridopt.planning.ways.ways import VARIANTS

from ..shared.places import RESULTS
from ..shared.readme_marks import Block
from ..shared.records import Records

FILE = "fits.jsonl"
MODELS = ("llama-3.2-1b", "llama-3.2-3b", "llama-3-8b", "qwen2.5-14b", "qwen2.5-32b", "llama-3-70b")
GPUS = ("RTX 3060", "RTX A4000", "RTX 4090", "A100 40 GB", "RTX A6000", "H100", "H200")


def records_at(path: Path = RESULTS / FILE) -> Records:
    """Return the records that lie in a file: a model each."""
    return Records(path, ("model",))


def table(records: list[dict]) -> str:
    """Return Markdown: a row for each model, a column for each GPU."""
    rooms = [budget(name) for name in GPUS]
    heads = (f"{room.card}: {room.usable / GIB:.1f} of {room.total / GIB:.1f} GiB" for room in rooms)
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(GPUS) + 1) + "|"]
    for record in records:
        cells = (_cell(record["ways"], room.usable) for room in rooms)
        lines.append(f"| {record['model']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nEvery cell is simulated, none is measured.\n"


def _cell(found: list[dict], room: int) -> str:
    """Return the first way of which a variant fits, its peak, and c for checkpointing, l for chunks, f for fused."""
    for way in found:
        for variant, peak in zip(VARIANTS, way["peaks"], strict=False):
            if peak <= room:
                marks = "c" * variant["checkpointing"] + "l" * bool(variant["chunk"])
                marks += "f" * (variant["release"] == "fused")
                beside = [f"{way['host'] / GIB:.1f} there"] if "host" in way else []
                return f"{way['title']} ({', '.join([f'{peak / GIB:.1f}', *beside, *marks])})"
    return "–"


BLOCK = Block("fits", "python -m benchmarks.fits --write", table)
