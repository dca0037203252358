"""Linear layers that keep their inputs as a scheme says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import Activations, HowTrained
from ...core.errors import HybridOptError
from ...core.numerics.compiling import not_inlined
from ..output_layer import output_layer
from ..quantization.layers import is_linear, matrix_shape
from ..roles import clean
from .kept_anyway import kept_anyway
from .kept_inputs import KeptInputs
from .refusals import REPLICATED

__all__ = ["put_", "removed_", "trained_layers"]

FORWARD = "forward"


def trained_layers(model: nn.Module, trained: Mapping[str, HowTrained]) -> list[str]:
    """Return the names of the weights of the linear layers but the output layer that are trained by gradients.

    Args:
        model: the model.
        trained: how parameters are trained, by name.
    """
    backward = {name for name, how in trained.items() if how.source.backward}
    own = {id(p) for name, p in model.named_parameters() if clean(name) in backward}
    return [name for name, layer in _layers(model).items() if id(layer.weight) in own]


def put_(model: nn.Module, kept: KeptInputs) -> None:
    """Let all linear layers of a model but the output layer keep their inputs as told, wherever they are trained."""
    kept.look(model)
    for name, layer in _layers(model).items():
        if FORWARD not in vars(layer):
            vars(layer)[FORWARD] = _Forward(layer, name, kept)


def removed_(model: nn.Module) -> None:
    """Let the linear layers of a model be as they were, whoever had them keep something else.

    PEFT takes adapters out of a wrapped model without a word to its strategy, and the layers of the base stay sampled.
    """
    for layer in model.modules():
        if isinstance(vars(layer).get(FORWARD), _Forward):
            del vars(layer)[FORWARD]


def _layers(model: nn.Module) -> dict[str, Any]:
    """Return the linear layers but the output layer, by the names of their weights.

    A layer for whose forward method something else stands in already is left out.
    """
    head = output_layer(model)
    linear = ((clean(f"{name}.weight"), m) for name, m in model.named_modules() if is_linear(m))
    free = {name: m for name, m in linear if isinstance(vars(m).get(FORWARD), _Forward | None)}
    return {name: m for name, m in free.items() if id(m.weight) not in head}


class _Forward:
    """Stands in for the forward method of one linear layer; a copy of the model has its own."""

    def __init__(self, layer: nn.Module, name: str, kept: KeptInputs):
        self._layer, self._name, self.kept = layer, name, kept
        self._turned = not isinstance(layer, nn.Linear)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return what the layer does; if it is trained, its input is kept as the scheme says."""
        layer: Any = self._layer
        if layer.training and torch.is_grad_enabled() and layer.weight.requires_grad:
            return _forward(self, *args, **kwargs)
        return _plain(layer, *args, **kwargs)

    def run(self, input: Tensor) -> Tensor:
        """Return what the layer does, and keep its input as the scheme says."""
        layer: Any = self._layer
        if input.device != layer.weight.device:  # the input of a copy of the layer
            raise HybridOptError(REPLICATED)
        outputs, inputs = matrix_shape(layer)
        rows = input.numel() // max(1, inputs)
        if self.kept.scheme.exact(rows, inputs, outputs) or kept_anyway(input):
            return _plain(layer, input)
        x, weight, bias = _cast(input, layer.weight, layer.bias)
        kept = self.kept.of(input, self._name, x.dtype)
        result: Tensor = _Linear.apply(x, weight, bias, _How(self.kept.scheme, self._turned), *kept)
        return result


@not_inlined
def _forward(forward: _Forward, *args: Any, **kwargs: Any) -> Tensor:
    (x,) = (*args, *kwargs.values())
    return forward.run(x)


def _plain(layer: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    result: Tensor = type(layer).forward(layer, *args, **kwargs)
    return result


def _cast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the operands of a layer as torch.autocast has them."""
    kind = x.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # tensors on meta never are
    if not cast or x.dtype == torch.float64:
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


@dataclass(frozen=True)
class _How:
    """How a layer is computed.

    Args:
        scheme: of its input.
        turned: is its weight [in, out]?
    """

    scheme: Activations
    turned: bool

    def output(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the layer makes of [..., in]."""
        if not self.turned:
            return F.linear(x, weight, bias)
        assert bias is not None  # Conv1D always has one
        return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[-1])


class _Linear(torch.autograd.Function):
    """A linear layer that keeps something else than its input; the gradients of input and bias are exact."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: _How, *kept: Tensor) -> Tensor:
        """Return what the layer does.

        Args:
            ctx: of torch.
            x: [..., in].
            weight: [out, in], or turned.
            bias: [out]; None without.
            how: the layer is computed.
            kept: of the input.
        """
        ctx.how = how
        ctx.save_for_backward(weight, *kept)
        return how.output(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of input, weight and bias."""
        if torch.is_grad_enabled():
            raise HybridOptError(
                "gradients of gradients (create_graph=True) need whole inputs; leave activations=... out for that"
            )
        weight, *kept = ctx.saved_tensors
        wanted, how = ctx.needs_input_grad, ctx.how
        whole = gradients[0]
        rows = whole.reshape(-1, whole.shape[-1])
        x = rows.mm(weight.t() if how.turned else weight).view(*whole.shape[:-1], -1) if wanted[0] else None
        product = how.scheme.product(kept, rows) if wanted[1] else None
        product = product.t() if product is not None and how.turned else product
        return x, product, rows.sum(0) if wanted[2] else None, *[None] * (1 + len(kept))
