"""Measures and predicts the scenarios of fit_70b one after the other."""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..shared.environment import environment
from ..shared.processes import run_module
from ..shared.records import Records
from .plan import longest, predict
from .scenarios import SCENARIOS, SHORTEST
from .table import gib

LEAST = 20  # seconds, with fewer left nothing is begun
ALLOCATOR = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def run(options: argparse.Namespace, records: Records, tell: Callable[[str], object]) -> None:
    """Measure, then predict, and keep each result at once.

    Args:
        options: of the command line.
        records: where the results are kept.
        tell: is called with a line for each.
    """
    end = time.monotonic() + 60 * options.minutes
    settings = {"size": options.size, "device": options.device}

    def real(name: str, record: dict) -> dict:
        return measured(name, min(options.seconds or SCENARIOS[name].seconds, end - time.monotonic()), options)

    passes = [] if options.simulate else [("measured", real)]
    passes += [] if options.measure_only else [("predicted", lambda name, record: simulated(name, record, options))]
    for kind, work in passes:
        for name in options.only:
            record = records.find(settings, scenario=name) or {"scenario": name, "label": SCENARIOS[name].label}
            record |= {kind: work(name, record), "settings": settings}
            if kind == "measured" or "environment" not in record:
                record["environment"] = environment(device=options.device if kind == "measured" else "cpu")
            records.put(record)
            tell(f"{name}, {kind}: {said(record[kind])}")


def measured(name: str, seconds: float, options: argparse.Namespace) -> dict:
    """Return what a scenario's own process found out, also if it had to be stopped.

    Args:
        name: of the scenario.
        seconds: its time limit.
        options: of the command line.
    """
    if seconds < LEAST:
        return {"failed": "no time left"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        arguments = [name, "--file", str(file), "--size", options.size, "--device", options.device]
        more = ALLOCATOR | {"PYTHONUNBUFFERED": "1"}
        try:
            done = run_module("fit_70b.run", arguments, timeout=seconds, env=more, capture_output=True, text=True)
            ended = {} if done.returncode == 0 else {"failed": f"exit {done.returncode}: {done.stderr[-300:]}"}
        except subprocess.TimeoutExpired:
            ended = {"failed": f"stopped after {seconds:.0f} s"}
        return (json.loads(file.read_text()) if file.exists() else {}) | ended


def simulated(name: str, record: dict, options: argparse.Namespace) -> dict:
    """Return the plan's prediction, for the sequence that was measured if one was.

    Args:
        name: of the scenario.
        record: what is known of it.
        options: of the command line.
    """
    scenario, measured = SCENARIOS[name], record.get("measured", {}).get("sequence")
    if scenario.budget and measured is None and options.size == "70b":
        return longest(scenario, options.size, options.device)
    first = scenario.sequences[0] if options.size == "70b" else SHORTEST
    return predict(scenario, options.size, options.device, measured or first)


def said(found: dict) -> str:
    """Return what is said of a result."""
    peak = gib(found.get("peak_bytes"))
    return f"{peak} GiB" + (f", then {found['failed']}" if "failed" in found else "")
