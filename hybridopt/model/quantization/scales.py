"""The scales of quantized weights, where they are trained while the codes stay (QZO)."""

from collections.abc import Iterator

from torch import Tensor, nn

from ...core.errors import HybridOptError
from ...core.registry import every
from .owners import layer_scheme
from .scheme_names import frozen_names

__all__ = ["open_scales_", "scale_names", "scales"]


def scales(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield the name ("layer.weight.absmax"), the layer and the tensor of every scale that is opened for training."""
    for prefix, layer in model.named_modules():
        scheme = layer_scheme(layer)
        for name, x in scheme.scales(layer).items() if scheme is not None else ():
            yield f"{prefix}.weight.{name}" if prefix else f"weight.{name}", layer, x


def scale_names() -> set[str]:
    """Return the last parts of the names of scales, of all schemes: "absmax" of "layer.weight.absmax"."""
    return {name for scheme in every("schemes") for name in scheme.scale_shapes((1, 1))}


def open_scales_(model: nn.Module) -> None:
    """Make the scales of every quantized layer parameters of their own, which no backward pass reaches.

    They become float32; what the model computes stays the same to the bit. Raises HybridOptError for a model without
    such layers.
    """
    found = [(scheme, m) for m in model.modules() if (scheme := layer_scheme(m)) and scheme.scale_shapes((1, 1))]
    if not found:
        raise HybridOptError(
            f"there are no quantized weights whose scales could be trained: pass quantization={frozen_names()} to "
            "wrap, or give a model that is quantized already"
        )
    for scheme, layer in found:
        scheme.open_scales_(layer)
