"""Measure peak memory and time of a step by zeroth-order methods, and by SGD within the backward pass.

Random bfloat16 weights made on the device, at real shapes. MeZO sees 16 sequences of full length, Addax 6 of those in
its probe and 4 short ones (a quarter of the length) in its backward pass, as in its paper (K0 = 6, K1 = 4); IP-SGD
sees 4 of full length, with and without gradient checkpointing, and the 4 short ones. "replay" trains a smaller model
for 200 steps on the device, rebuilds it on the CPU from its log, and compares every bit. All methods are measured
anew, and each is kept at once.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table

from ..shared.command_line import console, parser
from ..shared.environment import environment
from ..shared.llama import SETS
from ..shared.llama_model import bare
from ..shared.lost_device import add_go_on, end_if_lost, there
from ..shared.markdown import human
from ..shared.records import Records
from .measure import outcome
from .methods import METHODS
from .replay import replay

REPLAY = "replay"  # a record beside those of the methods


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    command = parser("zeroth_memory", __doc__)
    command.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--set", choices=SETS, help="shapes (default: 13b on cuda, tiny on cpu)")
    command.add_argument("--sequence", type=int, help="tokens of a sequence (default: 512 on cuda, 32 on cpu)")
    command.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="methods to measure")
    command.add_argument("--replayed", type=int, default=200, help="steps of the replayed run; 0: none")
    command.add_argument("--minutes", type=float, default=10.0, help="after these, no further method is begun")
    add_go_on(command)
    command.add_argument("--table", action="store_true", help="only print what was measured before")
    options = command.parse_args(arguments)
    on_cuda = options.device == "cuda"
    options.set = options.set or ("13b" if on_cuda else "tiny")
    options.sequence = options.sequence or (512 if on_cuda else 32)
    return options


def run(options: argparse.Namespace, records: Records, tell: Callable[[str], object]) -> None:
    """Replay, then measure every method asked for, and keep each result at once.

    Args:
        options: of the command line.
        records: where the results are kept, those from before not.
        tell: is called with a line for each.
    """
    end = time.monotonic() + 60 * options.minutes
    known = there(records, "method", options.go_on)
    settings = {"set": options.set, "device": options.device, "sequence": options.sequence}
    about = {"settings": settings, "environment": environment(device=options.device)}
    if options.replayed and REPLAY not in known:
        records.put({"method": REPLAY} | replay(options.device, options.replayed) | about)
    model = bare(options.set, options.device)
    tokens = torch.randint(model.config.vocab_size, (16, options.sequence), device=options.device)
    for name in [name for name in options.only if name not in known]:
        row: dict[str, Any] = outcome(model, name, tokens) if time.monotonic() < end else {"failed": "no time left"}
        records.put({"method": name, "label": METHODS[name].label} | row | about)
        tell(f"{name}: {row.get('failed') or human(row['peak_bytes'])}")
        end_if_lost(row)


def table(records: list[dict]) -> Table:
    """Return what was measured, for the terminal."""
    settings, check = records[0]["settings"], next((r for r in records if r["method"] == REPLAY), None)
    title = f"a step, Llama {settings['set']}, {settings['sequence']} tokens a sequence"
    caption = (
        None if check is None else f"after {check['steps']} steps replayed on the CPU, equal: {check['equal_sha256']}"
    )
    found = Table("method", title=title, caption=caption)
    for column in ("peak", "s/step", "first step, s"):
        found.add_column(column, justify="right")
    for record in records:
        if record["method"] != REPLAY:
            found.add_row(record["label"], *cells(record))
    return found


def cells(record: dict) -> list[str]:
    """Return one line of the table without its label."""
    if "failed" in record:
        return [f"failed: {record['failed'][:60]}"]
    return [human(record["peak_bytes"]), f"{record['seconds']:.2f}", f"{record['first_seconds']:.2f}"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    screen = console()
    records = Records(options.out / "zeroth_memory.jsonl", ("method",))
    if not options.table:
        run(options, records, screen.print)
    screen.print(table(records.some()))


if __name__ == "__main__":
    main()
