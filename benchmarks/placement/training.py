"""A Llama that trains from its folder: resident, or with layers that rest on disk."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hybridopt

from ..shared.llama_model import set_checkpointing

warnings.simplefilter("ignore")  # random weights, and names that transformers gives up

LR, RANK = {"lora": 1e-3, "mezo": 1e-6}, 8


@dataclass
class Arm:
    """How a model is trained.

    Args:
        folder: of the model.
        slots: layers that are near; None: all are resident.
        method: "lora": adapters on all linear layers, and checkpoints; "mezo": all weights, by losses alone.
        tokens: of a step.
        cached: may the system keep what was dropped? None: it decides itself.
        working: folder for weights that are trained.
    """

    folder: Path
    slots: int | None = 3
    method: str = "lora"
    tokens: int = 64
    cached: bool | None = False
    working: Path | None = None

    def load(self) -> Any:
        """Return the model, not wrapped yet."""
        placement = None
        if self.slots is not None:
            placement = hybridopt.Placement("disk", slots=self.slots, keep_cached=self.cached, cache=self.working)
        return hybridopt.load(self.folder, device="cpu", placement=placement)

    def wrap(self, model: Any) -> Any:
        """Return the model ready to train."""
        torch.manual_seed(0)
        if self.method == "mezo":
            return hybridopt.wrap(model.eval(), policy="mezo")
        from peft import LoraConfig

        set_checkpointing(model, True)
        model.enable_input_require_grads()
        return hybridopt.wrap(
            model.train(), policy="adamw", peft_config=LoraConfig(r=RANK, target_modules="all-linear")
        )

    def stepper(self, model: Any) -> Callable[[int], float]:
        """Return what takes the step of a number, and returns its loss."""
        lora = self.method == "lora"
        options: dict[str, Any] = {"release": "fused", "compile": False} if lora else {"compile": False}
        optimizer = model.hybrid.optimizer(lr=LR[self.method], **options)

        def step(number: int) -> float:
            draw = torch.Generator().manual_seed(100 + number)
            x = torch.randint(model.config.vocab_size, (1, self.tokens), generator=draw)
            if not lora:
                return float(optimizer.step(lambda: model(input_ids=x, labels=x).loss))
            loss = model(input_ids=x, labels=x).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return step

    def start(self) -> tuple[Any, Callable[[int], float]]:
        """Return the wrapped model, and what takes its steps."""
        model = self.wrap(self.load())
        return model, self.stepper(model)


def timed(step: Callable[[int], float], number: int) -> tuple[float, float]:
    """Return the seconds of a step, and its loss."""
    began = time.perf_counter()
    loss = step(number)
    return time.perf_counter() - began, loss
