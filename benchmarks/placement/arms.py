"""The measurements, each in a process of its own: `python -m benchmarks.placement.arms <name> <options as JSON>`."""

import gc
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import thread_time
from typing import Any

import torch

from hybridopt.model.placement.placed import Placed, placed

from . import folder as files
from .process import Watch, memory, private, read
from .training import Arm, timed


def placement_of(model: torch.nn.Module) -> Placed:
    """Return the placement of a model that has one."""
    found = placed(model)
    assert found is not None
    return found


def settled(small: Path, arm: Arm) -> None:
    """Take steps of a small model, so that everything that libraries load and keep is there."""
    for slots in (None, 2):
        _, step = replace(arm, folder=small, slots=slots, tokens=8).start()
        for number in range(2):
            step(number)
    gc.collect()


def peak(arm: Arm, small: Path, steps: int) -> dict:
    """Return the most memory of loading, wrapping and training, and of training alone, above that of the libraries."""
    settled(small, arm)
    files.forget(arm.folder)
    before = memory()
    with Watch() as whole:
        _, step = arm.start()
        with Watch() as watch:
            losses = [step(number) for number in range(steps)]
    return {"peak_bytes": whole.most - before, "step_bytes": watch.most - before, "losses": losses}


def pairs(arm: Arm, small: Path, steps: int) -> dict:
    """Return seconds of steps that a resident and a placed model take in turns, and what fetches took.

    The first step of each, in which memory is asked for, is left out.
    """
    settled(small, arm)
    _, resident = replace(arm, slots=None).start()
    if not arm.cached:
        files.forget(arm.folder)
    model, step = arm.start()
    first = [resident(0), step(0)]
    traffic, times = placement_of(model).traffic, []
    before = asdict(traffic)
    same = first[0] == first[1]
    for number in range(1, steps + 1):
        here, loss = timed(resident, number)
        there, other = timed(step, number)
        times.append([here, there])
        same &= loss == other
    return {"seconds": times, "same_losses": same, **{k: v - before[k] for k, v in asdict(traffic).items()}}


def visits(arm: Arm, small: Path, steps: int) -> dict:
    """Return what it takes to find that a layer is there, with a slot for every layer."""
    model, step = arm.start()
    found, spent = placement_of(model), []
    step(0)

    def watched(call):
        def counted(unit):
            began = thread_time()
            call(unit)
            spent.append(thread_time() - began)

        return counted

    for call in (found.visit, found.need, found.done):
        assert _replace(model, call, watched(call))
    times = [timed(step, number)[0] for number in range(1, steps + 1)]
    layers = 2 * len(found.units) * steps
    return {"seconds": times, "spent": sum(spent), "calls": len(spent), "visits": layers}


def _replace(model: torch.nn.Module, call, other) -> int:
    """Let hooks call something else; return how many did."""
    count = 0
    for module in model.modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            for name, value in getattr(hook, "__dict__", {}).items():
                if value == call:
                    setattr(hook, name, other)
                    count += 1
    return count


def reads(arm: Arm, small: Path, steps: int) -> dict:
    """Return the bytes that the disk was asked for by each part of a run."""
    settled(small, arm)
    files.forget(arm.folder)
    found, last = {}, read()

    def note(name: str) -> None:
        nonlocal last
        now = read()
        found[name], last = now - last, now

    model = arm.load()
    note("load")
    model = arm.wrap(model)
    note("wrap")
    arm.stepper(model)(0)
    placement_of(model).streamer.rest()
    note("first step")
    with tempfile.TemporaryDirectory() as out:
        model.hybrid.save_pretrained(Path(out) / "out")
    note("save")
    return {"read_bytes": found}


def limited(arm: Arm, small: Path, steps: int, room: int) -> dict:
    """Train where no more private memory than libraries and `room` bytes can be had; tell what went wrong."""
    settled(small, arm)
    before = private()
    resource.setrlimit(resource.RLIMIT_DATA, (before + room, before + room))
    try:
        model, step = arm.start()
    except (RuntimeError, MemoryError, OSError) as error:
        return {"ended": "load", "error": _told(error, arm)}
    traffic = placement_of(model).traffic if placed(model) else None
    times, reads = [], [0]
    try:
        for number in range(steps):
            times.append(timed(step, number))
            reads.append(traffic.read if traffic else 0)
    except (RuntimeError, MemoryError, OSError) as error:
        return {"ended": "step", "error": _told(error, arm)}
    moved = asdict(traffic) if traffic else {}
    last = {"last_read": reads[-1] - reads[-2]}  # the first steps learn the order, and watch what probes must know
    return {"ended": "", "seconds": [t for t, _ in times], "losses": [x for _, x in times], **moved, **last}


def _told(error: Exception, arm: Arm) -> str:
    """Return an error in words that are the same wherever the model lies."""
    return f"{type(error).__name__}: {error}".replace(str(arm.folder), "MODEL")[:300]


ARMS: dict[str, Callable[..., dict]] = {each.__name__: each for each in (peak, pairs, visits, reads, limited)}


def main(arguments: list[str]) -> None:
    """Measure one arm, and print what it found as the last line."""
    name, options = arguments[0], json.loads(arguments[1])
    threads, small = options.pop("threads"), Path(options.pop("small"))
    torch.set_num_threads(threads)
    rest = {key: options.pop(key) for key in ("steps", "room") if key in options}
    paths: dict[str, Any] = {key: Path(options.pop(key)) for key in ("folder", "working") if options.get(key)}
    print(json.dumps(ARMS[name](Arm(**paths, **options), small, **rest)))


if __name__ == "__main__":
    main(sys.argv[1:])
