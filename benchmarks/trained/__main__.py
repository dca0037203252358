"""Run `hybridopt train` itself on a small Llama with random weights: the peak beside its plan, speed, and the loss.

Model, tokenizer and chats are made on the spot, so nothing is downloaded. What is written down is what the command
leaves behind: planned and measured bytes of plan.json, tokens a second and losses of log.jsonl. On a GPU the peak is
what torch has allocated, and the plan is the card's; on a CPU, where only tiny models run, the peak is of the whole
process, and says nothing of the plan, which is of a GPU all the same.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table

from ..shared.command_line import console, parser
from ..shared.environment import environment
from ..shared.lost_device import add_go_on, end_if_lost, release, there
from ..shared.markdown import human
from ..shared.records import Records
from .folder import SIZES, Size, made

LORA = "method.lora={r: 16, modules_to_save: [lm_head]}"  # random hidden states say little to a head that stays
WAYS = {
    "adamw": ("method.policy=adamw",),
    "frugal": ("method.policy=frugal",),
    "frugal-fused": ("method={policy: frugal, release: fused}", "train.clip=null"),
    "lora": ("method.policy=adamw", LORA, "train.lr=0.005"),
    "lora-nf4": ("method.policy=adamw", LORA, "method.quantization=nf4", "train.lr=0.005"),
}
COMMON = ("train.lr=0.001", "train.schedule=constant", "train.warmup=0", "train.accumulate=1", "train.epochs=1")
MUCH = {"cuda": "auto", "cpu": "4GiB"}  # memory to plan for


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    command = parser("trained", __doc__)
    command.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="ways to train")
    command.add_argument("--minutes", type=float, default=5.0, help="after these, no further way is begun")
    add_go_on(command)
    return command.parse_args(arguments)


def run(options: argparse.Namespace, records: Records, tell: Callable[[str], object]) -> None:
    """Train in every way asked for, and keep each result at once.

    Args:
        options: of the command line.
        records: where the results are kept, those from before not.
        tell: is called with a line for each.
    """
    end = time.monotonic() + 60 * options.minutes
    name = "300m" if options.device == "cuda" else "tiny"
    about = {"settings": {"size": name, "device": options.device}, "environment": environment(device=options.device)}
    known = there(records, "method", options.go_on)
    with tempfile.TemporaryDirectory() as place:
        model, chats = made(Path(place), SIZES[name])
        for way in [way for way in options.only if way not in known]:
            out = Path(place) / way
            row: dict[str, Any] = {"failed": "no time left"}
            if time.monotonic() < end:
                row = _outcome(
                    [str(model), str(chats), "-o", str(out), *_settings(way, SIZES[name], options.device)], out
                )
            records.put({"method": way} | row | about)
            tell(f"{way}: {row.get('failed') or human(row['peak_bytes'])}")
            end_if_lost(row)


def _settings(way: str, size: Size, device: str) -> list[str]:
    pairs = (*COMMON, f"train.batch={size.batch}", f"train.max_steps={size.steps}", "train.log_every=1", *WAYS[way])
    return ["--gpu", MUCH[device], *(word for pair in pairs for word in ("--set", pair))]


def _outcome(arguments: list[str], out: Path) -> dict:
    """Return what a run has left behind, or why it failed."""
    from hybridopt.cli.main import app

    began = time.monotonic()
    try:
        app(["train", *arguments, "-o", str(out)], prog_name="hybridopt", standalone_mode=False)
        return _read(out) | {"whole_seconds": time.monotonic() - began}
    except Exception as error:  # such as of a library that is not there, or of memory
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        release("cuda" if torch.cuda.is_available() else "cpu")


def _read(out: Path) -> dict:
    """Return the numbers of plan.json and log.jsonl."""
    plan = json.loads((out / "plan.json").read_text())
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in log if "loss" in row]
    speeds = [row["tokens_per_second"] for row in log if "tokens_per_second" in row]
    planned, measured = plan["planned"], plan["measured"]
    return {
        "peak_bytes": measured["peak_bytes"],
        "planned_bytes": planned["peak_bytes"] - planned["overhead_bytes"],
        "planned": {name: planned[f"{name}_bytes"] for name in ("weights", "gradients", "state", "activations")},
        "measured": {name: measured[f"{name}_bytes"] for name in ("weights", "gradients", "state")},
        "tokens_per_second": median(speeds[1:] or speeds),  # the first step may compile
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "steps": plan["steps"],
        "device": plan["device"],
        "training_seconds": measured["training_seconds"],
    }


def table(records: list[dict]) -> Table:
    """Return what was measured, for the terminal."""
    found = Table("way", title=f"hybridopt train, Llama of size {records[0]['settings']['size']}")
    for column in ("peak", "planned", "tokens/s", "first loss", "last loss"):
        found.add_column(column, justify="right")
    for row in records:
        found.add_row(row["method"], *_cells(row))
    return found


def _cells(row: dict) -> list[str]:
    if "failed" in row:
        return [f"failed: {row['failed'][:60]}"]
    numbers = [f"{row['tokens_per_second']:.0f}", f"{row['first_loss']:.3f}", f"{row['last_loss']:.3f}"]
    return [human(row["peak_bytes"]), human(row["planned_bytes"]), *numbers]


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    screen = console()
    records = Records(options.out / "trained.jsonl", ("method",))
    run(options, records, screen.print)
    screen.print(table(records.some()))


if __name__ == "__main__":
    main()
