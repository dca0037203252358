"""Steps of one model, first with its layers on the device, then with layers that rest on the host."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hybridopt.model.losses.chunked import chunked_loss
from hybridopt.model.placement.backends.staged import Staged
from hybridopt.model.placement.placed import Placed
from hybridopt.model.placement.placement import Placement
from hybridopt.model.placement.placing import place_

from ..shared.lost_device import release
from ..shared.peak import measured_step
from ..shared.placed_names import GRADIENTS, PLACED, RESIDENT
from .model import CHUNK, build

SLOTS = 3
STEPS = 3  # timed, after one that is not
LR = 1e-6


def rows(size: str, device: str, lengths: tuple[int, ...], left: Callable[[], float]) -> Iterator[dict]:
    """Yield what is found out, row by row; where the model cannot be made, one row says why.

    Args:
        size: of SETS.
        device: "cpu" or "cuda"; the CPU stands in for a GPU.
        lengths: tokens of the sequence of a step.
        left: returns the seconds that there are; with none nothing more is begun.
    """
    began = time.perf_counter()
    try:
        model = build(size, device)
    except Exception as error:  # such as of a library that is not there, or of memory
        yield {"how": RESIDENT, "tokens": lengths[0], "failed": f"{type(error).__name__}: {error}"[:500]}
        return
    built = time.perf_counter() - began
    bench = Bench(model, device)
    expected, again = bench.gradients(lengths[0]), bench.gradients(lengths[0])
    repeats = differing(expected, again)
    for tokens in lengths:
        yield {"how": RESIDENT, "tokens": tokens, "build_seconds": built} | bench.outcome(tokens)
        if left() <= 0:
            return
    first = bench.gradients(lengths[0])  # of the adapters as they are now
    began = time.perf_counter()
    bench.place()
    placing = time.perf_counter() - began
    found = {"adapters": len(first), "differ": differing(first, bench.gradients(lengths[0]))}
    yield {"how": GRADIENTS, "tokens": lengths[0], "differ_resident": repeats} | found
    for tokens in lengths:
        if left() > 0:
            yield {"how": PLACED, "tokens": tokens, "placing_seconds": placing} | bench.outcome(tokens) | bench.held()


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> int:
    """Return how many gradients are not the same bits."""
    return sum(not torch.equal(x, other[name]) for name, x in one.items())


class Bench:
    """A wrapped model and its steps.

    Args:
        model: as `build` makes it.
        device: where it computes.
    """

    def __init__(self, model: Any, device: str):
        self.model, self.device = model, device
        self.optimizer = model.hybrid.optimizer(lr=LR, compile=False)
        self.placed: Placed | None = None

    def place(self) -> None:
        """Let the layers rest on the host from now on."""
        device = torch.device(self.device)
        self.placed = place_(self.model, Placement("host", slots=SLOTS), device, backend=Staged)
        self.placed.settle()
        release(device.type)

    def gradients(self, tokens: int) -> dict[str, Tensor]:
        """Return the gradients of all adapters, by name, on the host."""
        torch.use_deterministic_algorithms(True, warn_only=True)  # they are compared bit by bit
        self.backward(tokens)
        torch.use_deterministic_algorithms(False)
        found = {name: p.grad.cpu() for name, p in self.model.named_parameters() if p.grad is not None}
        self.optimizer.zero_grad()
        return found

    def backward(self, tokens: int) -> float:
        """Compute loss and gradients on a random sequence; return the loss."""
        generator = torch.Generator(self.device).manual_seed(tokens)
        vocabulary = self.model.config.vocab_size
        ids = torch.randint(vocabulary, (1, tokens), device=self.device, generator=generator)
        with chunked_loss(self.model, CHUNK):
            loss = self.model(input_ids=ids, labels=ids).loss
        loss.backward()
        return loss.item()

    def outcome(self, tokens: int) -> dict:
        """Return what `steps` says, or why the device had too little memory; what takes less goes on."""
        try:
            return self.steps(tokens)
        except torch.OutOfMemoryError as error:
            why = {"failed": f"{type(error).__name__}: {error}"[:500]}
        self.optimizer.zero_grad()
        release(self.device)
        return why

    def steps(self, tokens: int) -> dict:
        """Return peak, seconds and stalls of steps on so many tokens."""
        backend = self.placed.streamer.backend if self.placed else None
        lane = backend.lane if isinstance(backend, Staged) else None

        def work() -> float:
            loss = self.backward(tokens)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.device == "cuda":
                torch.cuda.synchronize()
            return loss

        made = [measured_step(work, [self.model, self.optimizer], self.device)]
        if lane is not None:
            lane.timed = True
            lane.stalled()
        before = self.placed.traffic.moved if self.placed else 0
        made += [measured_step(work, [self.model, self.optimizer], self.device) for _ in range(STEPS)]
        seconds = statistics.median(step["seconds"] for step in made[1:])
        found = {
            "seconds": seconds,
            "first_seconds": made[0]["seconds"],
            "tokens_per_second": tokens / seconds,
            "peak_bytes": max(step["peak_bytes"] for step in made[1:]),
            "loss": made[-1]["loss"],
        }
        if lane is not None and self.placed is not None:
            lane.timed = False
            found["stalled_share"] = lane.stalled() / sum(step["seconds"] for step in made[1:])
            found["moved_bytes_per_step"] = (self.placed.traffic.moved - before) // STEPS
        return found

    def held(self) -> dict:
        """Return what rests on the host, and what of that is page-locked."""
        assert self.placed is not None
        backend: Any = self.placed.streamer.backend
        weights = sum(unit.nbytes for unit in self.placed.units)
        return {"weight_bytes": weights, "host_bytes": backend.held, "pinned_bytes": backend.pinned}
