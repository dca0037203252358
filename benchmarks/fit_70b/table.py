"""What 70B takes, each row measured or simulated: for the README, and for the terminal."""

from pathlib import Path

from rich.table import Table

from ..shared.places import RESULTS
from ..shared.readme_marks import Block
from ..shared.records import Records
from .scenarios import GIB

FILE = "fit_70b.jsonl"
PARTS = ("weights", "quantization", "gradients", "state", "activations", "temporaries")


def records_at(path: Path = RESULTS / FILE) -> Records:
    """Return the records that lie in a file: a scenario each."""
    return Records(path, ("scenario",))


def table(records: list[dict]) -> str:
    """Return Markdown: a row for each scenario; peaks as an allocator counts them, without what CUDA takes."""
    lines = ["| Llama-3-70B | tokens | peak, GiB | weights and constants | state | the rest | which is |"]
    lines.append("|---|--:|--:|--:|--:|--:|---|")
    return "\n".join([*lines, *map(_row, records)]) + "\n"


def _row(record: dict) -> str:
    plan, real = record["predicted"], record.get("measured", {})
    kept, state = plan["weights_bytes"] + plan["quantization_bytes"], plan["state_bytes"]
    kept -= sum(plan[f"{name}_bytes"] for name in PARTS) - plan["peak_bytes"]  # the table in the host's memory
    rest = plan["peak_bytes"] - kept - state
    peak, said = (real["peak_bytes"], "measured") if "peak_bytes" in real else (plan["peak_bytes"], "simulated")
    sizes = " | ".join(f"{size / GIB:.1f}" for size in (peak, kept, state, rest))
    return f"| {record['label']} | {plan['sequence']} | {sizes} | {said} |"


BLOCK = Block("fit_70b", "python -m benchmarks.fit_70b --write", table)


def terminal(records: list[dict]) -> Table:
    """Return everything, for the terminal."""
    settings = records[0]["settings"]
    title = f"Llama-3-{settings['size']} shapes with random weights, batch 1, {settings['device']}"
    found = Table("scenario", title=title)
    for column in ("tokens", "peak GiB", "plan GiB", "off by", "building GiB", "tokens/s", "remark"):
        found.add_column(column, justify="right")
    for record in records:
        found.add_row(record["label"], *_cells(record.get("measured", {}), record.get("predicted", {})))
    return found


def _cells(real: dict, plan: dict) -> list[str]:
    one, other = real.get("peak_bytes"), plan.get("peak_bytes")
    off = f"{100 * (other / one - 1):+.1f} %" if one and other else "-"
    speed = f"{real['tokens_per_second']:.0f}" if "tokens_per_second" in real else "-"
    remark = "; ".join(str(x["failed"])[:60] for x in (real, plan) if "failed" in x)
    tokens = str(real.get("sequence") or plan.get("sequence") or "-")
    return [tokens, gib(one), gib(other), off, gib(real.get("build_peak_bytes")), speed, remark]


def gib(size: float | None) -> str:
    """Return bytes in GiB; of small models with more digits."""
    return "-" if size is None else f"{size / GIB:.2f}" if size > GIB / 10 else f"{size / GIB:.5f}"
