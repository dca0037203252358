"""Llama-3-70B's shape on one GPU: peak memory and speed of whole training steps, with the plan's prediction beside.

Random weights are made on the device layer by layer and quantized at once; sequences are random, one a step. The
peak is torch.cuda.max_memory_allocated over the steps after the first (on CPU, where only a tiny model runs: what
torch's allocator hands out). Every scenario has a process and a time limit of its own.

    python benchmarks/fit_70b.py                    on a machine with a GPU of 139 GiB: under five minutes there
    python benchmarks/fit_70b.py --simulate         on any machine: the full size with fake tensors, and no GPU
    python benchmarks/fit_70b.py --device cpu       a tiny model, to see that it works
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import results
import torch
from fit_70b_scenarios import GIB, SCENARIOS, SHORTEST
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
FILE = "fit_70b.json"
LEAST = 20  # seconds, with fewer left nothing is begun
ALLOCATOR = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def measured(name: str, seconds: float, options: argparse.Namespace) -> dict:
    """What a scenario's own process found out, also if it had to be stopped."""
    if seconds < LEAST:
        return {"failed": "no time left"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, str(HERE / "fit_70b_run.py"), name, "--file", str(file)]
        command += ["--size", options.size, "--device", options.device]
        environment = dict(os.environ, **ALLOCATOR, PYTHONUNBUFFERED="1")
        try:
            done = subprocess.run(command, timeout=seconds, env=environment, capture_output=True, text=True)
            ended = {} if done.returncode == 0 else {"failed": f"exit {done.returncode}: {done.stderr[-300:]}"}
        except subprocess.TimeoutExpired:
            ended = {"failed": f"stopped after {seconds:.0f} s"}
        return (json.loads(file.read_text()) if file.exists() else {}) | ended


def simulated(name: str, row: dict, options: argparse.Namespace) -> dict:
    """The plan's prediction, for the sequence that was measured if one was."""
    from fit_70b_plan import longest, predict

    scenario, measured = SCENARIOS[name], row.get("measured", {}).get("sequence")
    if scenario.budget and measured is None and options.size == "70b":
        return longest(scenario, options.size, options.device)
    first = scenario.sequences[0] if options.size == "70b" else SHORTEST
    return predict(scenario, options.size, options.device, measured or first)


def run(options: argparse.Namespace, tell: Callable[[str], object]) -> dict:
    """Measure, then predict; the document on disk grows with each row."""
    path, end = options.out / FILE, time.monotonic() + 60 * options.minutes
    settings = {"size": options.size, "device": options.device}
    document = results.load(path, settings) or {"settings": settings, "environment": environment(), "rows": {}}

    def real(name: str, row: dict) -> dict:
        return measured(name, min(options.seconds or SCENARIOS[name].seconds, end - time.monotonic()), options)

    passes = [] if options.simulate else [("measured", real)]
    passes += [] if options.measure_only else [("predicted", lambda name, row: simulated(name, row, options))]
    for kind, work in passes:
        for name in options.only:
            row = document["rows"].setdefault(name, {"label": SCENARIOS[name].label})
            row[kind] = work(name, row)
            results.save(path, document)
            tell(f"{name}, {kind}: {said(row[kind])}")
    return document


def environment() -> dict:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return results.environment() | {"gpu": card}


def said(found: dict) -> str:
    peak = gib(found.get("peak_bytes"))
    return f"{peak} GiB" + (f", then {found['failed']}" if "failed" in found else "")


def gib(size: float | None) -> str:
    """GiB; of small models with more digits."""
    return "-" if size is None else f"{size / GIB:.2f}" if size > GIB / 10 else f"{size / GIB:.5f}"


def table(document: dict) -> Table:
    """Everything, for the terminal."""
    settings = document["settings"]
    title = f"Llama-3-{settings['size']} shapes with random weights, batch 1, {settings['device']}"
    found = Table("scenario", title=title)
    for column in ("tokens", "peak GiB", "plan GiB", "off by", "building GiB", "tokens/s", "remark"):
        found.add_column(column, justify="right")
    for row in document["rows"].values():
        found.add_row(row["label"], *cells(row.get("measured", {}), row.get("predicted", {})))
    return found


def cells(real: dict, plan: dict) -> list[str]:
    one, other = real.get("peak_bytes"), plan.get("peak_bytes")
    off = f"{100 * (other / one - 1):+.1f} %" if one and other else "-"
    speed = f"{real['tokens_per_second']:.0f}" if "tokens_per_second" in real else "-"
    remark = "; ".join(str(x["failed"])[:60] for x in (real, plan) if "failed" in x)
    tokens = str(real.get("sequence") or plan.get("sequence") or "-")
    return [tokens, gib(one), gib(other), off, gib(real.get("build_peak_bytes")), speed, remark]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one, or to simulate")
    parser.add_argument("--size", choices=("70b", "tiny"), help="default: 70b on cuda, tiny on cpu")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--simulate", action="store_true", help="measure nothing: the plan's prediction at full size")
    parser.add_argument("--measure-only", action="store_true", help="predict nothing; --simulate can later")
    parser.add_argument("--minutes", type=float, default=5.0, help="for all measurements together")
    parser.add_argument("--seconds", type=int, help="time limit of every scenario instead of its own")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of fit_70b.json")
    options = parser.parse_args(arguments)
    options.device = options.device or ("cuda" if options.simulate or torch.cuda.is_available() else "cpu")
    options.size = options.size or ("70b" if options.device == "cuda" else "tiny")
    if options.size == "70b" and options.device == "cpu" and not options.simulate:
        parser.error("--size 70b --device cpu would take days; take --simulate")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    document = run(options, console.print)
    console.print(table(document))
    print(json.dumps(document))


if __name__ == "__main__":
    main()
