"""Whether the kernels of bitsandbytes work on the device: codes as the paper has them, products near the true ones."""

import importlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ....core.contracts import Scheme
from ....core.numerics.compiling import reason
from ....core.registry import every
from ..examine import Check
from ..finding import FAIL, OK, Finding
from ..inputs import noise
from ..machine import CPU, Machine

__all__ = ["CHECK", "library", "products", "restated"]

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
BLOCK, SHAPE = 64, (128, 256)
ELSEWHERE = 1e-3  # share of the values that may lie at another level: those in the middle of two
OFF = {4: 0.2, 8: 0.05}  # by the bits of a code: how far products may be from those of the weights as they were
CURE = "pip install -U bitsandbytes; `python -m bitsandbytes` says more"


def _bitsandbytes(machine: Machine) -> Iterator[Finding]:
    try:
        loaded = vars(importlib.import_module("bitsandbytes.cextension"))["lib"]
        share = _elsewhere(machine.device)
        off = products(machine.device)
    except Exception as error:  # of its own library, which may be missing, too old, or for another device
        yield Finding("bitsandbytes", FAIL, f"no 4- and 8-bit weights: {reason(error)}", CURE)
        return
    numbers = {"share of other levels": share, **{f"{name}: error of products": one for name, (one, _) in off.items()}}
    far = [name for name, (one, bound) in off.items() if not one <= bound]
    if share > ELSEWHERE or far:
        what = ", ".join([f"{name}: products are off by {off[name][0]:.0%}" for name in far])
        text = what or f"{share:.2%} of the codes of nf4 are not those of the nearest levels"
        yield Finding("bitsandbytes", FAIL, text, CURE, numbers)
    else:
        yield Finding("bitsandbytes", OK, f"{', '.join(off)} by {library(loaded)}", numbers=numbers)


def library(loaded: object) -> str:
    """Return what computes: the file that bitsandbytes has loaded, or torch, more slowly, where it has none."""
    own = vars(loaded).get("_lib")
    return "torch alone, slowly" if own is None else str(own._name).rpartition("/")[2]


def restated(weight: Tensor) -> Tensor:
    """Return the values that nf4 keeps of a weight (Dettmers et al. 2023, appendix E), without nested scales."""
    blocks = weight.view(-1, BLOCK)
    scales = blocks.abs().amax(-1, keepdim=True)
    levels = torch.tensor(NF4)
    return (levels[((blocks / scales)[..., None] - levels).abs().argmin(-1)] * scales).view(weight.shape)


def _elsewhere(device: torch.device) -> float:
    """Return the share of values that bitsandbytes keeps at another level than the nearest."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = noise("nf4", SHAPE)
    codes, state = quantize_4bit(weight.to(device), blocksize=BLOCK, quant_type="nf4")
    off = (dequantize_4bit(codes, state).to(CPU) - restated(weight)).abs()
    return (off > 1e-5 * weight.abs().max()).double().mean().item()


def products(device: torch.device) -> dict[str, tuple[float, float]]:
    """Return by scheme how far the product of a quantized layer is from that of the weight, and how far it may be."""
    frozen: list[Scheme] = [scheme for scheme in every("schemes") if not scheme.trains]
    found = {}
    for scheme in frozen:
        layer = nn.Linear(SHAPE[1], SHAPE[0], bias=False)
        layer.weight = nn.Parameter(noise("weight", SHAPE), requires_grad=False)
        x = noise("x", (32, SHAPE[1])).bfloat16()
        wanted = x.float() @ layer.weight.t()
        got = scheme.quantize(layer.bfloat16().to(device))(x.to(device)).to(CPU)
        error = (got - wanted).norm() / wanted.norm()
        found[scheme.name] = (error.item() if error.isfinite() else math.inf, OFF[scheme.bits])
    return found


CHECK = Check("bitsandbytes", "kernels", 2, _bitsandbytes)
