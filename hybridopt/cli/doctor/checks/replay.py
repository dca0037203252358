"""A run without gradients that was saved as scalars, rebuilt on the CPU and on the device: every bit is promised."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from torch import Tensor, nn

from ....reloading import from_pretrained
from ....strategy import Strategy
from ....wrapping import wrap
from ..compare import compared
from ..examine import Check
from ..finding import Finding
from ..inputs import noise
from ..machine import CPU, Machine
from ..training import STEPS, count_positive

__all__ = ["CHECK"]

WIDTH = 512


def _replay(machine: Machine) -> Iterator[Finding]:
    with TemporaryDirectory(prefix="hybridopt-") as folder:
        wanted = _saved(Path(folder), machine)
        found = {str(device.type): _rebuilt(Path(folder), device) for device in (CPU, machine.device)}
    yield compared("replay", wanted, {f"{machine.device.type} to {name}": one for name, one in found.items()})


def _saved(folder: Path, machine: Machine) -> dict[str, Tensor]:
    """Train on the device and save; return the weights."""
    model = wrap(_model(machine.device), policy="mezo")
    strategy = cast(Strategy, model.hybrid)
    optimizer = strategy.optimizer(lr=1e-2, weight_decay=0.1, compile=machine.compile)
    for _ in range(STEPS):
        optimizer.step(lambda: count_positive(model.parameters()))
    strategy.save_pretrained(folder)
    return _weights(model)


def _rebuilt(folder: Path, device: torch.device) -> dict[str, Tensor]:
    return _weights(from_pretrained(_model(device), folder))


def _model(device: torch.device) -> nn.Module:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)).to(device, torch.bfloat16)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(noise(f"replay, {name}", tuple(p.shape)))
    return model


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach().to(CPU, copy=True) for name, x in model.state_dict().items()}


CHECK = Check("replay", "self-test", 7, _replay, compiles=True)
