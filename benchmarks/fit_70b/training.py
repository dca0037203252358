"""A model that trains, and what its steps take."""

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..shared.files import write
from ..shared.peak import measured_step
from .scenarios import Scenario

LR = 1e-6


@dataclass
class Training:
    """A wrapped model on its device, and the file for what is found out about it."""

    model: Any  # of transformers, wrapped
    scenario: Scenario
    device: str
    found: dict
    file: Path

    def __post_init__(self):
        self.optimizer = self.model.hybrid.optimizer(lr=LR, release=self.scenario.release)

    def note(self, **values: object) -> None:
        """Remember, also if this process is stopped."""
        self.found |= values
        write(self.file, json.dumps(self.found))

    def steps(self, sequence: int, count: int) -> int:
        """Train on one random sequence of so many tokens for `count` steps; return their peak in bytes."""
        vocabulary = self.model.config.vocab_size
        tokens = torch.randint(vocabulary, (1, sequence), device=self.device)
        made = [self.step(tokens) for _ in range(count)]
        peak = max(step["peak_bytes"] for step in made[1:] or made)
        seconds = min(step["seconds"] for step in made[1:] or made)
        self.note(sequence=sequence, peak_bytes=peak, seconds=seconds, tokens_per_second=sequence / seconds)
        self.note(first_peak_bytes=made[0]["peak_bytes"], loss=made[-1]["loss"])
        return peak

    def step(self, tokens: Tensor) -> dict:
        """Update once; return the most memory, the seconds and the loss."""

        def work():
            return self.update(lambda: self.model(input_ids=tokens, labels=tokens).loss)

        return measured_step(work, [self.model, self.optimizer], self.device)

    def update(self, loss: Callable[[], Tensor]) -> float:
        """Update by two forward passes, or by one with a backward pass; return the loss once the device is done."""
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
