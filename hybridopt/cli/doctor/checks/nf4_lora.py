"""LoRA on an nf4 base: losses of a few steps, against LoRA on the values that the CPU makes of the same base."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from ....core.numerics.compiling import reason
from ....strategy import Strategy
from ....wrapping import wrap
from ..compare import Bound, compared
from ..examine import Check
from ..finding import SKIPPED, Finding
from ..inputs import noise
from ..machine import CPU, Machine

__all__ = ["CHECK"]

WIDTHS, STEPS, RANK = (128, 256, 64), 5, 8  # the last layer stays dense, as output layers do
BOUND = Bound(1e-2)  # products of other kernels, and a few weights at the level next to the nearest


def _nf4_lora(machine: Machine) -> Iterator[Finding]:
    try:
        import_module("bitsandbytes.functional")
    except Exception as error:  # of its own library
        yield Finding("nf4 + LoRA", SKIPPED, f"needs bitsandbytes, which cannot be used, see there ({reason(error)})")
        return
    wanted = {"losses": _losses(_dense(), CPU, None)}
    found = {"losses": _losses(_base(), machine.device, "nf4")}
    yield compared("nf4 + LoRA", wanted, {f"{machine.device.type}, against dense layers": found}, BOUND)


def _losses(base: nn.Module, device: torch.device, quantization: str | None) -> Tensor:
    """Return the losses of a few steps of FRUGAL on LoRA, float32 [STEPS], on the CPU."""
    from peft import LoraConfig

    config = LoraConfig(r=RANK, target_modules=["0", "2"], init_lora_weights=False)
    model = wrap(base.to(device), policy="frugal", peft_config=config, quantization=quantization)
    _draw_(model)
    optimizer = cast(Strategy, model.hybrid).optimizer(lr=1e-2)
    x, y = (noise(name, (32, width)).to(device) for name, width in (("inputs", WIDTHS[0]), ("answers", WIDTHS[-1])))
    losses = []
    for _ in range(STEPS):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses).to(CPU)


def _draw_(model: nn.Module) -> None:
    """Give all adapters numbers that every device has."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(0.05 * noise(name, tuple(p.shape)))


def _base() -> nn.Sequential:
    first, second = (nn.Linear(i, o, bias=False) for i, o in zip(WIDTHS, WIDTHS[1:], strict=False))
    for i, layer in enumerate((first, second)):
        layer.weight = nn.Parameter(noise(f"base {i}", tuple(layer.weight.shape)) / layer.in_features**0.5)
    return nn.Sequential(first, nn.Tanh(), second)


def _dense() -> nn.Sequential:
    """Return the base with the values that nf4 keeps of it on the CPU, in floats."""
    from bitsandbytes.functional import dequantize_4bit

    codes: Any = wrap(_base(), policy="frugal", quantization="nf4")
    dense = _base()
    for layer, other in zip(dense, codes, strict=True):
        if type(other) is not type(layer):
            layer.weight = nn.Parameter(dequantize_4bit(other.weight.data, other.weight.quant_state))
    return dense


CHECK = Check("nf4 + LoRA", "self-test", 5, _nf4_lora)
