"""Measure training with layers that rest on disk against its bounds; fails where one is missed.

Everything is measured anew, each arm in a process of its own, and each result is kept at once.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from ..shared.command_line import parser
from ..shared.environment import environment
from ..shared.places import ROOT
from ..shared.processes import run_module
from ..shared.records import Records
from . import folder as files
from .disk import speed
from .table import lines, publish, records_at

ROWS = (
    "peak resident",
    "peak placed",
    "cold",
    "warm",
    "visits",
    "reads",
    "limit placed",
    "limit resident",
    "limit mezo",
)
QUIET = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait by turning take the helper's processor
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),  # memory of tensors is given back: what malloc keeps is none of theirs
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("placement", __doc__)
    options.add_argument("--shape", choices=files.SHAPES, default="1.2gb", help="of the model")
    options.add_argument("--slots", type=int, default=3, help="layers that are near at a time")
    options.add_argument("--tokens", type=int, default=64, help="of a step")
    options.add_argument("--pairs", type=int, default=3, help="steps, resident and placed in turns")
    options.add_argument("--threads", type=int, default=2, help="threads for torch")
    options.add_argument(
        "--room", type=int, default=700, help="MB beyond the libraries where LoRA's memory is limited"
    )
    options.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="rows to measure")
    options.add_argument("--disk", type=Path, default=ROOT, help="folder on the disk to measure; 1.3 GB are written")
    options.add_argument("--table", action="store_true", help="only write the table anew")
    return options.parse_args(arguments)


def arms(options: argparse.Namespace, weights: int) -> dict[str, tuple[str, dict]]:
    """Return the arm and its options of every row.

    Args:
        options: of the command line.
        weights: bytes of the model.
    """
    placed, resident = {"slots": options.slots}, {"slots": None}
    room, third = {"room": options.room * 10**6}, {"room": weights // 3, "slots": 2}
    every = files.SHAPES[options.shape].layers
    return {
        "peak resident": ("peak", resident | {"steps": 2}),
        "peak placed": ("peak", placed | {"steps": 2}),
        "cold": ("pairs", placed | {"steps": options.pairs}),
        "warm": ("pairs", placed | {"steps": options.pairs, "cached": True}),
        "visits": ("visits", {"slots": every, "cached": True, "steps": 2}),
        "reads": ("reads", placed | {"steps": 1}),
        "limit placed": ("limited", placed | room | {"steps": 2}),
        "limit resident": ("limited", resident | room | {"steps": 2}),
        "limit mezo": ("limited", third | {"steps": 2, "method": "mezo"}),
    }


def measure(options: argparse.Namespace, records: Records) -> None:
    """Write the models, measure every row that is asked for, and keep each at once."""
    records.clear()
    keys = ("shape", "slots", "tokens", "pairs", "threads")
    about = {"settings": {key: getattr(options, key) for key in keys}, "environment": environment()}
    about["environment"]["threads"] = options.threads
    with TemporaryDirectory(prefix=".placement-", dir=options.disk) as place:
        model, small, working = (Path(place) / name for name in ("model", "small", "working"))
        files.write(model, files.SHAPES[options.shape])
        files.write(small, files.SHAPES["small"])
        working.mkdir()
        paths = {"folder": str(model), "small": str(small), "working": str(working)}
        records.put({"row": "disk"} | speed(model / files.NAME) | about)
        for row, (arm, own) in arms(options, (model / files.NAME).stat().st_size).items():
            if row in options.only:
                asked = paths | {"tokens": options.tokens, "threads": options.threads} | own
                found = outcome(arm, asked)
                records.put({"row": row} | found | {"room": own.get("room")} | about)
                print(f"{row}: {json.dumps(found)[:160]}", file=sys.stderr)


def outcome(arm: str, options: dict) -> dict:
    """Return what an arm has found, in a process of its own; SystemExit with what it said if it failed.

    Args:
        arm: its name.
        options: of it.
    """
    done = run_module("placement.arms", [arm, json.dumps(options)], env=QUIET, capture_output=True, text=True)
    if done.returncode < 0 and arm == "limited":  # the system has ended it: that is the result of this row
        return {"ended": "died", "error": f"signal {-done.returncode}"}
    if done.returncode:
        raise SystemExit(f"{arm} {options}: ended with {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    records = records_at(options.out)
    if not options.table:
        measure(options, records)
    print(publish(records))
    if missed := [line.text for line in lines(records) if not line.holds]:
        raise SystemExit(f"{len(missed)} bounds are missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
