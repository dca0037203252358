"""Count launches, waits and copies of a step on a real device, by torch.profiler: the third step of a model's shapes.

    python -m benchmarks.launches.profiled --set 8b-2     on a machine with a GPU

On a CPU, where nothing is launched, the operations of torch are counted, to see that it works.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from hybridopt import HybridOptimizer

from ..shared.command_line import parser
from ..shared.environment import environment
from ..shared.llama import SETS
from ..shared.lost_device import add_go_on, end_if_lost, release, there
from ..shared.peak import silence
from ..shared.records import Records
from .measure import STEPS, Held, Holder
from .rows import ROWS
from .scaled import PROFILED, scaled

STEP = "the step that is counted"
BACKWARD = "gradients that are released within it"
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
VERSION = re.compile(r"(_v\d+)?(_ptsz)?$")  # in which some versions of the profiler end names
BLIND = "no launch was seen: torch.profiler sees none of this device (no CUPTI, or it may not be used here)"
STOPS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
Event = tuple[str, int, int]  # name, start and end


def counted(events: Iterable[Event]) -> dict[str, int]:
    """Return how often what was asked of the device within the step, by kind.

    "launches" of kernels, compiled or not; "waits": the host stands until the device is done, copies to the host
    included; "copies" to the device for which it waits, as their memory can be paged out; "sent": copies to the device
    for which it does not; "operations" of torch; "midway", where gradients are released one by one: how often the host
    stands before `step()` is called.

    Args:
        events: of the profiler.
    """
    events = list(events)
    start, end = _span(events, STEP)
    released, last = _span(events, BACKWARD) if any(name == BACKWARD for name, _, _ in events) else (0, -1)
    found: Counter[str] = Counter()
    for name, began, _ in events:
        kind = kind_of(name)
        # work on the device ends later than the step that asked for it, but no other step follows
        if kind is not None and start <= began and (began <= end or kind in ("copies", "sent")):
            found[kind] += 1
        found["midway"] += kind == "waits" and released <= began <= last
    found["waits"] = max(0, found["waits"] - found["copies"])  # those copies are waited for by the same call
    return {kind: found[kind] for kind in ("launches", "waits", "copies", "sent", "operations", "midway")}


def _span(events: list[Event], name: str) -> tuple[int, int]:
    return min((start, end) for one, start, end in events if one == name)  # there is one of the device, too


def kind_of(name: str) -> str | None:
    """Return what an event of the profiler counts as, None for nothing."""
    name = VERSION.sub("", name)
    if name in LAUNCHES:
        return "launches"
    if name in STOPS:
        return "waits"
    if name.startswith("Memcpy HtoD"):
        return "copies" if "Pageable" in name else "sent"
    return "operations" if name.startswith("aten::") else None


def measure(name: str, shapes: dict[str, tuple[int, ...]], device: str) -> dict:
    """Count the third step of a row of ROWS over random bfloat16 weights.

    Args:
        name: of the row.
        shapes: of the parameters, by name.
        device: "cpu" or "cuda".
    """
    row = ROWS[name]
    weights = {n: nn.Parameter(torch.randn(s, device=device).bfloat16()) for n, s in shapes.items()}
    grads = {n: torch.randn_like(weight) for n, weight in weights.items()}
    model = Held({n.replace(".", "-"): Holder(weight) for n, weight in weights.items()})
    optimizer = HybridOptimizer(
        weights.items(), lr=1e-3, policy=row.policy, release=row.release, module=model, **row.options
    )

    def step() -> None:
        if optimizer.probes_needed:
            optimizer.probe(model)
        with torch.profiler.record_function(BACKWARD):
            for n, weight in reversed(weights.items()):
                weight.grad = grads[n]
                if row.release != "accumulate":
                    optimizer.gradient_ready(n, weight)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(STEPS - 1):
        step()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    wait(device)
    with silence():
        with profile(activities=kinds) as profiler:
            with torch.profiler.record_function(STEP):
                step()
            wait(device)
        events = profiler.profiler.kineto_results.events()
    return counted((e.name(), e.start_ns(), e.start_ns() + e.duration_ns()) for e in events)


def wait(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def outcome(name: str, shapes: dict[str, tuple[int, ...]], device: str) -> dict:
    """Return what `measure` says and its bounds, or why it could not; the other rows go on.

    Args:
        name: of the row.
        shapes: of the parameters, by name.
        device: "cpu" or "cuda".
    """
    try:
        counts = measure(name, shapes, device)
        if device == "cuda" and not counts["launches"]:  # there is no such step
            return {"failed": BLIND, "counts": counts}
        return {"counts": counts, "most": scaled(name, len(shapes))}
    except Exception as error:  # of whatever kind: it is the result
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        release(device)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    options = parser("launches.profiled", __doc__)
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options.add_argument("--set", choices=SETS, default="8b-2", help="shapes (default: two layers of 8B)")
    options.add_argument("--rows", nargs="+", choices=ROWS, default=PROFILED, help="what is counted")
    add_go_on(options)
    return options.parse_args(arguments)


def records_at(folder: Path) -> Records:
    """Return the records that lie in a folder, one a row."""
    return Records(folder / "launches_profiled.jsonl", ("row",))


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    records = records_at(options.out)
    known = there(records, "row", options.go_on)
    shapes, about = SETS[options.set].shapes, {"environment": environment(device=options.device)}
    settings = {"set": options.set, "device": options.device, "tensors": len(shapes)}
    for name in [name for name in options.rows if name not in known]:
        found = outcome(name, shapes, options.device)
        records.put({"row": name, **found, "settings": settings, **about})
        print(f"{name}: {found}", flush=True)
        end_if_lost(found)


if __name__ == "__main__":
    main()
