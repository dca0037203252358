"""Measure one scenario of fit_70b in a process of its own; what is known is written down after every step."""

import argparse
import json
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

from hybridopt.model.losses.chunked import chunked_loss

from ..shared.environment import environment
from ..shared.files import write
from ..shared.peak import Peak
from ..shared.tensor_bytes import held, live
from .lengths import planned_length
from .model import build, prepared
from .scenarios import SCENARIOS, SHORTEST
from .sequences import STEPS, first_that_fits, hold, shorter
from .training import Training


def measure(name: str, size: str, device: str, file: Path, first: str | None = None) -> dict:
    """Return everything about one scenario; raises what stands in its way.

    Args:
        name: of the scenario.
        size: of the model.
        device: "cpu" or "cuda".
        file: for what is known so far.
        first: another scenario of the same model, measured before; what is known of it is the field "before".
    """
    scenario = SCENARIOS[name]
    found: dict = {"random_weights": True, "environment": environment(device=device)}
    card = hold(device, scenario.budget) if scenario.budget else 0
    start = time.perf_counter()
    with Peak(device) as peak:
        model = build(size, scenario, device)
    found["build_seconds"], found["build_peak_bytes"] = time.perf_counter() - start, peak.extra
    found["model_bytes"] = live(device, [model])
    model = prepared(model, scenario)
    training = Training(model, scenario, device, found, file)
    loss = nullcontext() if scenario.chunk is None else chunked_loss(model, scenario.chunk)
    with loss:
        for one in filter(None, (first, None if scenario.budget else name)):
            first_that_fits(training, SCENARIOS[one].sequences if size == "70b" else (SHORTEST,))
        if first:
            training.note(before=dict(found))
            training.clear()
        if scenario.budget:
            first_that_fits(training, shorter(planned_length(name, size, card)), 1 if first else STEPS)
    training.note(optimizer_bytes=held(training.optimizer, model.parameters()))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.fit_70b.run", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--first", choices=SCENARIOS)
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    try:
        measure(options.scenario, options.size, options.device, options.file, options.first)
    except Exception as error:  # of whatever kind: it is the result
        there = json.loads(options.file.read_text()) if options.file.exists() else {}
        write(options.file, json.dumps(there | {"failed": f"{type(error).__name__}: {error}"[:500]}))


if __name__ == "__main__":
    main()
