"""A small Llama that is trained for two steps, on a device and on the CPU, and what differs afterwards."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

import hybridopt
from hybridopt.model.checksums import checksum

from ..shared.llama_model import bare
from ..shared.wrapped import strategy
from .case import Case

STEPS, LR, TOKENS = 2, 1e-3, (2, 16)
SHARE = 0.999  # of the weights of a tensor that have to be near: signs of what is nearly 0 turn some others
LAST_BITS = 2e-7  # of a float32 number
TINY = torch.finfo(torch.float32).tiny


@dataclass
class Trained:
    """What a training has led to.

    Args:
        losses: before every step.
        start: values of what is trained, by name, on the CPU.
        weights: likewise, after the last step.
        reread: has what was saved the same checksums after it was read? None: it was not saved.
    """

    losses: list[float] = field(default_factory=list)
    start: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    reread: bool | None = None


def base(device: str) -> nn.Module:
    """Return the model, always the same."""
    torch.manual_seed(0)
    return bare("small", "cpu").float().to(device)


def train(case: Case, device: str, compile: bool, start: dict[str, Tensor] | None = None) -> Trained:
    """Train for two steps.

    Args:
        case: how.
        device: where.
        compile: are updates compiled?
        start: values of adapters to begin with, which would be other random numbers on another device.
    """
    config = LoraConfig(r=case.lora, target_modules="all-linear") if case.lora else None
    model = hybridopt.wrap(
        base(device), case.policy, peft_config=config, quantization=case.quantization, **case.options
    )
    weights = {name: p for name, p in model.named_parameters() if plain(p)}
    with torch.no_grad():
        for name, value in (start or {}).items():
            weights[name].copy_(value)
    found = Trained(start=values(weights))
    optimizer = strategy(model).optimizer(lr=LR, release=case.release, compile=compile)
    config_of: Any = model.config
    tokens = torch.arange(TOKENS[0] * TOKENS[1]).view(TOKENS).mul(7).remainder(config_of.vocab_size).to(device)

    def loss() -> Tensor:
        return model(input_ids=tokens, labels=tokens).loss

    for _ in range(STEPS):
        if optimizer.probes_needed:
            found.losses.append(float(optimizer.probe(loss)))
        if optimizer.gradients_needed:
            value = loss()
            optimizer.observe(value.detach())  # some windows follow the loss
            value.backward()
            found.losses.append(float(value.detach()))
        optimizer.step()
        optimizer.zero_grad()
    found.weights = values(weights)
    if case.saved:
        found.reread = reread(model, device)
    return found


def plain(p: Tensor) -> bool:
    """Return whether a parameter is what it seems: trained weights in 8 bits, and frozen ones in 4, are not."""
    return type(p) is nn.Parameter and p.is_floating_point()


def values(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return copies on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in weights.items()}


def reread(model: nn.Module, device: str) -> bool:
    """Save a model, read it onto a new one, and return whether every tensor has the same checksum."""
    with TemporaryDirectory() as folder:
        strategy(model).save_pretrained(Path(folder) / "saved")
        again = hybridopt.from_pretrained(base(device), Path(folder) / "saved")
        return sums(model) == sums(again)


def sums(model: nn.Module) -> dict[str, int]:
    """Return the checksum of every parameter by its name."""
    return {name: checksum(p) for name, p in model.named_parameters()}


def differences(wanted: Trained, found: Trained) -> dict[str, float]:
    """Return how far a training is from that on the CPU.

    Returns:
        losses: the largest difference, over the loss. weights: the difference that `SHARE` of the weights of a tensor
        stay within, over the largest of them. update: the norm of the difference, over that of what the steps have
        changed; infinite if they have changed nothing.
    """
    pairs = list(zip(wanted.losses, found.losses, strict=True))
    off = {"losses": largest(abs(a - b) / abs(a) for a, b in pairs)}
    if wanted.weights:
        ends = [(w, found.weights[name]) for name, w in wanted.weights.items()]
        off["weights"] = largest(float(most((w - other).abs()) / w.abs().max().clamp(min=TINY)) for w, other in ends)
        change = {n: w.double() - wanted.start[n].double() for n, w in wanted.weights.items()}
        other = {n: found.weights[n].double() - wanted.start[n].double() for n in change}
        size, gap = norm(change.values()), norm(change[n] - other[n] for n in change)
        off["update"] = gap / size if size else float("inf")
    return off


def most(x: Tensor) -> Tensor:
    """Return the number that `SHARE` of all numbers do not exceed, [], or NaN where there is one."""
    found = x.flatten().kthvalue(max(1, math.ceil(SHARE * x.numel()))).values
    return torch.where(x.isnan().any(), torch.nan, found)


def shaken(start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return values that differ from others by about their last bits, always the same."""
    generator = torch.Generator().manual_seed(1)
    return {name: x * (1 + LAST_BITS * torch.randn(x.shape, generator=generator)) for name, x in start.items()}


def largest(numbers: Iterable[float]) -> float:
    """Return the largest number; if any is none (NaN), so is the largest."""
    return float(torch.tensor(list(numbers), dtype=torch.float64).max())


def norm(tensors: Iterable[Tensor]) -> float:
    """Return the norm of all numbers together."""
    return float(sum(x.square().sum() for x in tensors)) ** 0.5
