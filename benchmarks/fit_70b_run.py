"""One scenario of fit_70b, in a process of its own: its memory and speed, written down after every step."""

import argparse
import gc
import json
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import results
import torch
from fit_70b_model import build, prepared
from fit_70b_scenarios import CONTEXT, SCENARIOS, SHORT, SHORTEST, Scenario
from tensor_bytes import Peak, held
from torch import nn

from hybridopt.model.losses.chunked import chunked_loss

STEPS = 2  # the first makes the state, and may compile
LR = 1e-6
GRAIN = 64  # tokens


@dataclass
class Bench:
    """A model that trains, and the file for what is found out about it."""

    model: nn.Module
    scenario: Scenario
    device: str
    found: dict
    file: Path

    def __post_init__(self):
        self.optimizer = self.model.hybrid.optimizer(lr=LR, release=self.scenario.release)

    def note(self, **values) -> None:
        """Remember, also if this process is stopped."""
        self.found |= values
        results.save(self.file, self.found)

    def steps(self, sequence: int, count: int) -> int:
        """Train on one random sequence; its peak in bytes."""
        vocabulary = self.model.config.vocab_size
        tokens = torch.randint(vocabulary, (1, sequence), device=self.device)
        made = [self.step(tokens) for _ in range(count)]
        peak = max(step["peak_bytes"] for step in made[1:] or made)
        seconds = min(step["seconds"] for step in made[1:] or made)
        self.note(sequence=sequence, peak_bytes=peak, seconds=seconds, tokens_per_second=sequence / seconds)
        self.note(first_peak_bytes=made[0]["peak_bytes"], loss=made[-1]["loss"])
        return peak

    def step(self, tokens: torch.Tensor) -> dict:
        """One update, its most memory, and how long it took."""
        before = live(self.device, [self.model, self.optimizer])
        with Peak(self.device) as peak:
            start = time.perf_counter()
            loss = self.update(lambda: self.model(input_ids=tokens, labels=tokens).loss)
            passed = time.perf_counter() - start
        return {"peak_bytes": before + peak.extra, "seconds": passed, "loss": loss}

    def update(self, loss: Callable[[], torch.Tensor]) -> float:
        """By two forward passes, or by one with a backward pass; the loss, for which the device must be done."""
        if self.scenario.zeroth:
            value = self.optimizer.probe(loss)
            self.optimizer.step()
        else:
            value = loss()
            value.backward()
            value = value.detach()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize()
        return float(value)

    def clear(self) -> None:
        """Let go of what a failed step has left."""
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if torch.device(self.device).type == "cuda":
            torch.cuda.empty_cache()


def live(device: str, things: list) -> int:
    """Bytes of what is there: all of torch's on CUDA; on a CPU those of the things."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated()
    return held(things)


def first_that_fits(bench: Bench, sequences: tuple[int, ...]) -> None:
    """Train on the longest of the sequences that the device has memory for."""
    for sequence in sequences:
        try:
            bench.steps(sequence, STEPS)
            return
        except torch.OutOfMemoryError as error:
            bench.note(failed_sequences=[*bench.found.get("failed_sequences", []), sequence], error=str(error)[:200])
        bench.clear()
    raise MemoryError(f"none of the sequences {sequences} fits")


def longest(bench: Bench, budget: int, short: tuple[int, int]) -> None:
    """Train on the longest sequence in the budget: a line through two short ones tells it, and one step tells more."""
    low, high = bench.steps(short[0], 2), bench.steps(short[1], 1)
    slope = (high - low) / (short[1] - short[0])
    sequence = short[1] + (budget - high) / slope
    for share in (0.99, 0.95, 0.9):
        length = int(sequence * share) // GRAIN * GRAIN
        bench.clear()
        try:
            if bench.steps(length, 1) <= budget:
                return
        except torch.OutOfMemoryError:
            bench.note(failed_sequences=[*bench.found.get("failed_sequences", []), length])
    raise MemoryError(f"not even {length} tokens fit")


def limit(device: str, budget: int) -> int:
    """Bytes for tensors on a card of `budget` bytes; on CUDA the allocator is held to it."""
    if torch.device(device).type == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (budget - CONTEXT) / total))
    return int(budget - CONTEXT)


def measure(name: str, size: str, device: str, file: Path) -> dict:
    """Everything about one scenario; raises what stands in its way."""
    scenario = SCENARIOS[name]
    found: dict = {"random_weights": True}
    budget = scenario.budget and limit(device, scenario.budget)
    start = time.perf_counter()
    with Peak(device) as peak:
        model = build(size, scenario, device)
    found["build_seconds"], found["build_peak_bytes"] = time.perf_counter() - start, peak.extra
    found["model_bytes"] = live(device, [model])
    model = prepared(model, scenario)
    bench = Bench(model, scenario, device, found, file)
    loss = nullcontext() if scenario.chunk is None else chunked_loss(model, scenario.chunk)
    with loss:
        if scenario.budget is None:
            first_that_fits(bench, scenario.sequences if size == "70b" else (SHORTEST,))
        elif size == "70b":
            longest(bench, budget, SHORT)
        else:
            longest(bench, 2 * bench.steps(SHORTEST, 1), (SHORTEST, 2 * SHORTEST))
    bench.note(optimizer_bytes=held(bench.optimizer, model.parameters()))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
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
        results.save(options.file, there | {"failed": f"{type(error).__name__}: {error}"[:500]})


if __name__ == "__main__":
    main()
