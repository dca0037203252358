"""Measure one scenario of fit_70b in a process of its own; what is known is written down after every step."""

import argparse
import json
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

from hybridopt.model.losses.chunked import chunked_loss

from ..shared.files import write
from ..shared.peak import Peak
from ..shared.tensor_bytes import held, live
from .model import build, prepared
from .scenarios import SCENARIOS, SHORT, SHORTEST
from .sequences import first_that_fits, limit, longest
from .training import Training


def measure(name: str, size: str, device: str, file: Path) -> dict:
    """Return everything about one scenario; raises what stands in its way.

    Args:
        name: of the scenario.
        size: of the model.
        device: "cpu" or "cuda".
        file: for what is known so far.
    """
    scenario = SCENARIOS[name]
    found: dict = {"random_weights": True}
    budget = scenario.budget and limit(device, scenario.budget)
    start = time.perf_counter()
    with Peak(device) as peak:
        model = build(size, scenario, device)
    found["build_seconds"], found["build_peak_bytes"] = time.perf_counter() - start, peak.extra
    found["model_bytes"] = live(device, [model])
    model = prepared(model, scenario)
    training = Training(model, scenario, device, found, file)
    loss = nullcontext() if scenario.chunk is None else chunked_loss(model, scenario.chunk)
    with loss:
        if scenario.budget is None:
            first_that_fits(training, scenario.sequences if size == "70b" else (SHORTEST,))
        elif size == "70b":
            longest(training, budget, SHORT)
        else:
            longest(training, 2 * training.steps(SHORTEST, 1), (SHORTEST, 2 * SHORTEST))
    training.note(optimizer_bytes=held(training.optimizer, model.parameters()))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.fit_70b.run", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    try:
        measure(options.scenario, options.size, options.device, options.file)
    except Exception as error:  # of whatever kind: it is the result
        there = json.loads(options.file.read_text()) if options.file.exists() else {}
        write(options.file, json.dumps(there | {"failed": f"{type(error).__name__}: {error}"[:500]}))


if __name__ == "__main__":
    main()
