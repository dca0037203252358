"""Measures and predicts the scenarios of fit_70b one after the other."""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread

from ..shared.environment import environment
from ..shared.processes import run_module
from ..shared.records import Records
from .lengths import planned_length
from .plan import longest, predict
from .scenarios import SCENARIOS, SHORTEST
from .table import gib

EVERY = 2.0  # seconds
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

    def known(name: str) -> dict:
        return records.find(settings, scenario=name) or {"scenario": name, "label": SCENARIOS[name].label}

    def keep(name: str, kind: str, found: dict) -> None:
        record = {"environment": environment()} | known(name)
        own = {key: value for key, value in found.items() if key != "environment"}
        told = {"environment": found["environment"]} if "environment" in found else {}  # of the process that measured
        records.put(record | {kind: own, "settings": settings} | told)

    def keep_both(name: str, first: str | None, found: dict) -> None:
        for one, own in divided(name, first, found).items():
            keep(one, "measured", own)

    for name in [] if options.simulate else options.only:
        if any(SCENARIOS[other].after == name for other in options.only):
            continue  # measured with that one
        first = SCENARIOS[name].after if SCENARIOS[name].after in options.only else None
        seconds = min(options.seconds or SCENARIOS[name].seconds, end - time.monotonic())
        found = measured(name, seconds, options, first, partial(keep_both, name, first))
        keep_both(name, first, found)
        for one, own in divided(name, first, found).items():
            tell(f"{one}, measured: {said(own)}")
    for name in [] if options.measure_only else options.only:
        keep(name, "predicted", simulated(name, known(name), options))
        tell(f"{name}, predicted: {said(known(name)['predicted'])}")


def divided(name: str, first: str | None, found: dict) -> dict[str, dict]:
    """Return what was found out by scenario, where one was measured before another of the same model.

    Args:
        name: of the scenario.
        first: the one that was measured before; None: there was none.
        found: what their process has written.
    """
    if first is None:
        return {name: found}
    if "before" not in found:  # it did not come to the second
        return {first: found, name: {"failed": found.get("failed", "not begun")}}
    return {first: found["before"], name: {key: value for key, value in found.items() if key != "before"}}


def measured(
    name: str,
    seconds: float,
    options: argparse.Namespace,
    first: str | None = None,
    keep: Callable[[dict], object] = lambda found: None,
) -> dict:
    """Return what a scenario's own process found out, also if it had to be stopped.

    Args:
        name: of the scenario.
        seconds: its time limit.
        options: of the command line.
        first: another scenario of the same model, measured before in the same process.
        keep: is given what is known, again and again.
    """
    if seconds < LEAST:
        return {"failed": "no time left"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        arguments = [name, "--file", str(file), "--size", options.size, "--device", options.device]
        arguments += ["--first", first] if first else []
        more = ALLOCATOR | {"PYTHONUNBUFFERED": "1"}
        try:
            with repeated(lambda: file.exists() and keep(json.loads(file.read_text()))):
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
    if scenario.budget and measured is None:
        if options.size == "70b" and options.card is None:
            return longest(scenario, options.size, options.device)
        measured = planned_length(name, options.size, options.card)
    first = scenario.sequences[0] if options.size == "70b" else SHORTEST
    return predict(scenario, options.size, options.device, measured or first)


@contextmanager
def repeated(work: Callable[[], object]) -> Iterator[None]:
    """Do something every few seconds within this context, in a thread of its own."""
    over = Event()

    def go() -> None:
        while not over.wait(EVERY):
            work()

    thread = Thread(target=go, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def said(found: dict) -> str:
    """Return what is said of a result."""
    peak = gib(found.get("peak_bytes"))
    return f"{peak} GiB" + (f", then {found['failed']}" if "failed" in found else "")
