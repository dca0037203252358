"""Every weight of a model that could be quantized, and why it is not, where it is not."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.contracts import Scheme
from ..fsdp.sharded_tensors import is_sharded
from .layers import is_linear, target
from .read_elsewhere import read_elsewhere

__all__ = ["Candidate", "candidates"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
LEAST = 64  # values of a weight: smaller ones are not worth their constants


@dataclass(frozen=True)
class Candidate:
    """A weight of at least two dimensions, of a linear layer or of a stack of matrices.

    Args:
        name: as quantized weights are listed (`layers.target`).
        parameter: its name in the model.
        why_not: why the scheme leaves it in floats, in a few words; None: it is quantized.
        wanted: is it left so because the caller, or the model itself, asks for that?
    """

    name: str
    parameter: str
    why_not: str | None = None
    wanted: bool = False


def candidates(
    model: nn.Module,
    scheme: Scheme,
    skip: Sequence[str] = (),
    device: torch.device | None = None,
    readable: bool = True,
) -> Iterator[Candidate]:
    """Yield the weights of linear layers, of subclasses of these too, and stacks of matrices, in the model's order.

    Args:
        model: on any device, meta too.
        scheme: what they are to be quantized with.
        skip: names of modules to leave out, with all beneath them.
        device: where the model is going to be; None: where each weight is.
        readable: do weights that other modules read stay in floats, unless a scheme lets them see values?
    """
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    fp32 = {part for module in model.modules() for part in getattr(module, "_keep_in_fp32_modules", None) or ()}
    read = read_elsewhere(model, scheme.codes_dtype) if readable and not scheme.values_seen else {}
    for path, module in model.named_modules():
        for member, weight in module._parameters.items():
            if weight is None or not _is_weight(module, member, weight):
                continue
            name, full = target(path, module, member), f"{path}.{member}".lstrip(".")
            if any(f"{full}.".startswith(f"{kept}.") for kept in skip):
                yield Candidate(name, full, "left out as asked", wanted=True)
            elif any(f".{part}." in f".{full}." for part in fp32):
                yield Candidate(name, full, "kept in float32 by its model", wanted=True)
            else:
                why = _obstacle(path, module, weight, owners[id(weight)])
                if is_linear(module) and path in read:
                    why = why or f"read by {read[path]}"
                yield Candidate(name, full, why or _uncovered(module, member, scheme, device))


def _is_weight(module: nn.Module, member: str, weight: Tensor) -> bool:
    if isinstance(module, nn.Linear) or is_linear(module):
        return member == "weight"
    other = isinstance(module, nn.modules.conv._ConvNd | nn.Embedding | nn.EmbeddingBag | nn.Bilinear)
    named = f"{type(module).__name__}.{member}".lower()
    return not other and weight.ndim == 3 and min(weight.shape) > 1 and "embed" not in named and "norm" not in named


def _obstacle(path: str, module: nn.Module, weight: Tensor, uses: int) -> str | None:
    """Return what speaks against quantizing a weight by whatever scheme; None: nothing does."""
    if not path:
        return "the model is nothing else"
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "read by its nn.MultiheadAttention"
    if uses > 1:
        return "tied to another module"
    if type(weight) is not nn.Parameter and not is_sharded(weight):
        return f"a {type(weight).__name__} already"
    if weight.dtype not in FLOATS:
        return f"{weight.dtype} is no float of 16 or 32 bits".replace("torch.", "")
    return f"fewer than {LEAST} values" if weight.numel() < LEAST else None


def _uncovered(module: nn.Module, member: str, scheme: Scheme, device: torch.device | None) -> str | None:
    """Return why a scheme does not take a weight; None: it does."""
    weight = module.get_parameter(member)
    if is_linear(module):
        fits = scheme.covers(module, device or weight.device)
        return None if fits else f"its shape {list(weight.shape)} has no right kernel on this device"
    if scheme.packs(weight):
        return None
    return f"a weight of {type(module).__name__}, and quantization={scheme.name!r} does not take its shape"
