"""Quantized weights, frozen by bitsandbytes or trained: which layers, how many bytes, in place on a live model."""

import hashlib
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError
from hybridopt.core.numerics.grids import GROUP
from hybridopt.model.quantization import int8_layers
from hybridopt.model.quantization.int8_layers import TRAINABLE

from .frozen_layers import BLOCK, NESTED_BLOCK, THRESHOLD, is_conv1d
from .frozen_layers import frozen as _quantized

__all__ = ["BLOCK", "NESTED_BLOCK", "THRESHOLD"]  # of the frozen layers
__all__ += ["SCHEMES", "check", "check_layer", "chosen", "fingerprint", "guard", "is_quantized_parameter"]
__all__ += ["logical_numel", "planned_bytes", "quantize_", "scheme_of", "targets", "weight_bytes"]

SCHEMES = ("nf4", "fp4", "int8")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def targets(model: nn.Module, scheme: str, skip: Sequence[str] = (), device: torch.device | None = None) -> list[str]:
    """Names of the linear layers that `scheme` covers (transformers' `Conv1D` too) on `device`, by default their own.

    Works on meta tensors as well.

    Left out are the modules named in `skip` with all beneath them, those that transformers keeps in fp32, layers that
    share their weight with another module, layers whose weight is no plain 16- or 32-bit float parameter of at least
    64 values, and those for which bitsandbytes computes wrongly on CPUs (4-bit: widths of 16 k that are not 64 k).
    """
    _check_names(model, scheme, skip)
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    fp32 = {part for module in model.modules() for part in getattr(module, "_keep_in_fp32_modules", None) or ()}
    return [
        name
        for name, module in model.named_modules()
        if name
        and _is_coverable(module, scheme, device)
        and owners[id(module.weight)] == 1
        and not any(f"{name}.".startswith(f"{kept}.") for kept in skip)
        and fp32.isdisjoint(name.split("."))
    ]


def check(model: nn.Module, scheme: str, skip: Sequence[str] = ()) -> list[str]:
    """Names of the layers that `quantize_` should replace; changes nothing, and raises where it could not do it.

    Empty if the model already is quantized with this very scheme. See `targets` for what is left out.
    """
    _check_names(model, scheme, skip)
    if scheme_of(model) == scheme:
        return []
    _check_untouched(model, scheme)
    names = chosen(model, scheme, skip)
    for name in names:
        check_layer(name, model.get_submodule(name), scheme)
    return names


def chosen(model: nn.Module, scheme: str, skip: Sequence[str] = (), device: torch.device | None = None) -> list[str]:
    """`targets`, of which there must be one; raises HybridOptError if there is none."""
    names = targets(model, scheme, skip, device)
    if not names:
        raise HybridOptError(
            f"quantization={scheme!r}: the model has no linear layer to quantize (16- or 32-bit float weights, not "
            f"tied, not in skip={list(skip)}, on CPUs as wide as a multiple of 64); leave `quantization` out"
        )
    return names


def check_layer(name: str, module: nn.Module, scheme: str) -> None:
    """Raise HybridOptError if this layer's weight has no values, too large ones, or hooks that would be lost."""
    weight = module.weight
    if weight.is_meta:
        raise HybridOptError(f"{name}.weight is on the meta device; load the weights before quantizing them")
    hooked = "forward" in vars(module) or any(value for key, value in vars(module).items() if key.endswith("_hooks"))
    if hooked and scheme != TRAINABLE:
        raise HybridOptError(f"{name} has hooks, which its quantized replacement would lose; add them after wrap")
    limit = torch.finfo(torch.float16).max if scheme == "int8" else torch.finfo(torch.float32).max
    low, high = (value.item() for value in torch.aminmax(weight.detach()))
    if not -limit <= low <= high <= limit:
        raise HybridOptError(
            f"{name}.weight has values from {low} to {high}; quantization={scheme!r} takes finite ones up to {limit:g}"
        )


def quantize_(model: nn.Module, scheme: str, names: Iterable[str]) -> None:
    """Replace the named layers by frozen bitsandbytes ones, in place and one by one; or keep them, on trainable codes.

    A layer's full-precision weight is freed before the next is touched. Biases stay the same parameters; training
    mode and device are kept. 4-bit layers compute in the dtype that their weight had; nf4 scales are quantized again.
    """
    if scheme == TRAINABLE:
        return int8_layers.quantize_(model, names)
    for name in (names := list(names)):
        model.set_submodule(name, _quantized(model.get_submodule(name), scheme))
    if names:
        setattr(model, "is_loaded_in_8bit" if scheme == "int8" else "is_loaded_in_4bit", True)  # PEFT looks for it
        _silence()


def guard(model: nn.Module) -> None:
    """Keep evaluation from repacking 4-bit weights on CPUs with AVX512-BF16; also for models that others quantized.

    bitsandbytes repacks a layer's weight for inference in its first evaluation, after which gradients silently stop
    there and its scales are rounded for good. Raises, changing nothing, if that has already happened.
    """
    layers = [(n, m) for n, m in model.named_modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    spoiled = [n for n, m in layers if hasattr(getattr(m.weight, "quant_state", None), "packing_format_for_cpu")]
    if spoiled:
        raise HybridOptError(
            f"{spoiled[0]} ({len(spoiled)} of {len(layers)} 4-bit layers): an evaluation on the CPU has repacked the "
            "weight for inference, which stops gradients and cannot be undone exactly. Load the model again and wrap "
            "it before the first forward pass in evaluation mode (from_pretrained returns models in that mode)"
        )
    for _, layer in layers:
        layer.support_avx512bf16_for_cpu = False
    if "int8" in (scheme_of(model) or ""):
        _silence()


def is_quantized_parameter(p: Tensor) -> bool:
    """Whether `p` holds codes instead of values: bitsandbytes' parameters, and any that is not floating point."""
    kind = type(p).__name__
    if kind == "Params4bit" or (kind == "Int8Params" and not p.has_fp16_weights):
        return True
    return not (p.is_floating_point() or p.is_complex())


def logical_numel(p: Tensor) -> int:
    """Number of weights that `p` stands for: a 4-bit parameter packs two into a byte."""
    state = getattr(p, "quant_state", None)
    return p.numel() if state is None else math.prod(state.shape)


def weight_bytes(*things: nn.Module | Tensor) -> int:
    """Bytes of the weights in modules, parameters or tensors: values or codes, and every quantization constant.

    Memory that several share (tied weights) counts once per call.
    """
    tensors = [tensor for thing in things for tensor in _tensors(thing)]
    return sum({(t.untyped_storage()._cdata, t.storage_offset()): t.nbytes for t in tensors}.values())


def planned_bytes(shape: Sequence[int], scheme: str) -> int:
    """Bytes that one [out, in] weight takes once quantized, with its constants (nf4: also a table of 1 KiB)."""
    count = math.prod(shape)
    blocks = math.ceil(count / BLOCK)
    if scheme == TRAINABLE:
        return count + 5 * math.ceil(count / GROUP)
    if scheme == "int8":
        return count + 4 * shape[0]
    scales = blocks + 4 * math.ceil(blocks / NESTED_BLOCK) + 4 + 1024 if scheme == "nf4" else 4 * blocks
    return math.ceil(count / 2) + scales + 4 * 16


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the bits of all quantized weights and their constants, in module order (adapters do not matter)."""
    digest = hashlib.sha256()
    owned = ((p, module) for module in model.modules() for p in module.parameters(recurse=False))
    for tensor in (part for p, module in owned if is_quantized_parameter(p) for part in _parts(p, module)):
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def scheme_of(model: nn.Module) -> str | None:
    """The scheme that the model is quantized with ("nf4", "int8-trainable" ...; several joined by "+"), or None."""
    quantized = (p for p in model.parameters() if is_quantized_parameter(p))
    kinds = {getattr(p, "quant_type", "int8" if type(p).__name__ == "Int8Params" else None) for p in quantized}
    kinds |= {TRAINABLE} if int8_layers.int8_layers(model) else set()
    return "+".join(sorted(kind for kind in kinds if kind)) or None


def _check_names(model: nn.Module, scheme: str, skip: Sequence[str]) -> None:
    if scheme not in (*SCHEMES, TRAINABLE):
        raise HybridOptError(f"quantization={scheme!r} is unknown; allowed are {', '.join((*SCHEMES, TRAINABLE))}")
    unknown = sorted(set(skip) - {name for name, _ in model.named_modules()})
    if unknown:
        raise HybridOptError(f"skip={unknown}: the model has no modules of that name")


def _check_untouched(model: nn.Module, scheme: str) -> None:
    if present := scheme_of(model) or (getattr(model, "is_quantized", False) and model.quantization_method):
        raise HybridOptError(
            f"quantization={scheme!r}: the model already is quantized ({present}); leave `quantization` out, or load "
            "the model in full precision"
        )
    if "peft" in sys.modules:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name in (name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)):
            cure = "quantization comes first: pass the bare model with both `quantization` and `peft_config`"
            cure = "its base is frozen; take 'int8' or 'nf4'" if scheme == TRAINABLE else cure
            raise HybridOptError(f"quantization={scheme!r}: {name} already has an adapter; {cure}")


def _is_coverable(module: nn.Module, scheme: str, device: torch.device | None) -> bool:
    if not (type(module) is nn.Linear or is_conv1d(module)):
        return False
    weight = module._parameters.get("weight")  # None where weight_norm has taken its place
    if type(weight) is not nn.Parameter or weight.dtype not in FLOATS or weight.numel() < BLOCK:
        return False
    inputs = weight.shape[0 if is_conv1d(module) else 1]
    if (device or weight.device).type != "cpu" or scheme == TRAINABLE:
        return True
    # On CPUs torch._int_mm returns garbage for one column, and the 4-bit AVX-512 kernel picks the wrong scales.
    return inputs > 1 if scheme == "int8" else inputs % 16 > 0 or inputs % BLOCK == 0


def _tensors(thing: nn.Module | Tensor) -> list[Tensor]:
    if isinstance(thing, Tensor):
        return _parts(thing)
    return [part for module in thing.modules() for p in module.parameters(recurse=False) for part in _parts(p, module)]


def _parts(p: Tensor, module: nn.Module | None = None) -> list[Tensor]:
    if hasattr(p, "__tensor_flatten__"):  # a tensor made of others
        return [getattr(p, name) for name in p.__tensor_flatten__()[0]]
    scales = getattr(p, "SCB", None)
    if scales is None and type(p).__name__ == "Int8Params":  # the first forward pass moves them to the module
        scales = module.state.SCB if hasattr(module, "state") else p.new_empty(len(p), dtype=torch.float32)
    parts, state = [p, scales], getattr(p, "quant_state", None)
    while state is not None:
        parts += [state.absmax, state.code, state.offset]
        state = getattr(state, "state2", None)
    return [part for part in parts if isinstance(part, Tensor)]


def _silence() -> None:
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in record.getMessage()
