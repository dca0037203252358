"""The scales of quantized weights, where they are trained: what stands between the codes and the weights."""

from collections.abc import Iterator

from torch import Tensor, nn

__all__ = ["SUFFIXES", "scales"]

SUFFIXES = ("absmax", "SCB")  # of 4-bit blocks, of 8-bit rows: bitsandbytes' names


def scales(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name ("layer.weight.absmax"), layer and tensor of every scale that `integrations.scales` has opened."""
    for prefix, module in model.named_modules():
        weight, state = module._parameters.get("weight"), getattr(module, "state", None)
        found = (getattr(getattr(weight, "quant_state", None), "absmax", None), getattr(state, "SCB", None))
        for suffix, x in zip(SUFFIXES, found, strict=True):
            if isinstance(x, nn.Parameter):
                yield f"{prefix}.weight.{suffix}" if prefix else f"weight.{suffix}", module, x
