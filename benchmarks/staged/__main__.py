"""Measure training with layers that rest on the host beside the same training with all of them on the device.

Layers of Llama-3-70B's shape in nf4 with random weights, LoRA on all linear layers, gradient checkpointing and a loss
by chunks. The same model is measured twice: with everything on the device, then with its layers in page-locked memory
of the host; gradients of all adapters are compared bit by bit. On a CPU, which stands in for a GPU, sizes are tiny and
only gradients mean something. --plan predicts the peaks instead, on any machine.
"""

import argparse
import time
from collections.abc import Iterable

import torch
from rich.table import Table

from ..shared.command_line import console, parser
from ..shared.environment import environment
from ..shared.llama import SETS
from ..shared.markdown import human
from ..shared.placed_names import PLACED, RESIDENT
from ..shared.records import Records
from .measure import rows
from .plan import planned

LENGTHS = {"cuda": (2048, 4096), "cpu": (32, 64)}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    command = parser("staged", __doc__)
    command.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--set", choices=SETS, help="shapes (default: 70b-32 on cuda, tiny-6 on cpu)")
    command.add_argument("--minutes", type=float, default=2.0, help="after these, nothing more is begun")
    command.add_argument("--plan", action="store_true", help="measure nothing: what is planned")
    options = command.parse_args(arguments)
    options.set = options.set or ("70b-32" if options.device == "cuda" else "tiny-6")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options, screen = parse(arguments), console()
    records = Records(options.out / f"staged{'_plan' * options.plan}.jsonl", ("how", "tokens"))
    records.clear()
    lengths, end = LENGTHS[options.device], time.monotonic() + 60 * options.minutes
    settings = {"set": options.set, "device": options.device}
    about = {"settings": settings, "environment": environment(device=options.device)}
    found: Iterable[dict]
    if options.plan:
        every = [(how, tokens) for how in (PLACED, RESIDENT) for tokens in lengths]
        found = ({"how": how, "tokens": n} | planned(options.set, options.device, how, n) for how, n in every)
    else:
        found = rows(options.set, options.device, lengths, lambda: end - time.monotonic())
    for row in found:
        records.put(row | about)
        screen.print(f"{row['how']}, {row['tokens']} tokens", highlight=False)
    screen.print(table(records.some()))


def table(records: list[dict]) -> Table:
    """Return what was found out, for the terminal."""
    found = Table("layers", title=f"nf4, LoRA, Llama {records[0]['settings']['set']}")
    for column in ("tokens", "peak", "tokens/s", "stalled", "gradients that differ"):
        found.add_column(column, justify="right")
    for row in records:
        peak = human(row["peak_bytes"]) if "peak_bytes" in row else row.get("failed", "-")[:60]
        speed = f"{row['tokens_per_second']:.0f}" if "tokens_per_second" in row else "-"
        stalled = f"{row['stalled_share']:.1%}" if "stalled_share" in row else "-"
        differ = f"{row['differ']} of {row['adapters']}" if "differ" in row else "-"
        found.add_row(row["how"], str(row["tokens"]), peak, speed, stalled, differ)
    return found


if __name__ == "__main__":
    main()
