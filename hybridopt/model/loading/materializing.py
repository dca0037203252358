"""Values for a model on the meta device, one tensor at a time; layers are quantized at once."""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ...core.contracts import Scheme
from ..quantization.replacing import quantize_
from ..quantization.targets import check_weight
from .matching import shared_names

__all__ = ["InputGradients", "fill", "finish"]

DONE = "_is_hf_initialized"  # transformers' own mark: it leaves these values alone


def fill(
    model: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    scheme: Scheme | None = None,
    layers: Collection[str] = (),
    filled: Callable[[str], None] | None = None,
) -> None:
    """Put every value in its place, under all names that share it, and quantize those of `layers`.

    A value is freed before the next is asked for, so that never more than one weight is held in full precision.

    Args:
        model: on the meta device.
        tensors: (name, value) of every tensor, in any order.
        scheme: what `layers` are quantized with; None: nothing is.
        layers: names of the weights to quantize, those of linear layers by the layer.
        filled: is told the name of every value once it is in its place, and quantized.
    """
    names = {name: together for together in shared_names(model) for name in together}
    layers = set(layers)
    for name, value in tensors:
        _put(model, names[name], value)
        del value
        weight = next((each for each in (name, name.removesuffix(".weight")) if each in layers), None)
        if scheme is not None and weight is not None:
            check_weight(model, weight, scheme)
            quantize_(model, scheme, [weight], mark=False)
        if filled is not None:
            filled(name)
    if scheme is not None and layers:
        scheme.mark_(model)


def finish(model: Any, device: torch.device) -> nn.Module:
    """Compute the buffers that are never stored, as transformers does after loading (its `initialize_weights`)."""
    for module in model.modules():
        own = ((name, module._buffers[name]) for name in module._non_persistent_buffers_set)
        computed = {name: torch.empty_like(x, device=device) for name, x in own if x is not None}
        module._buffers |= computed
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and name not in computed:
                setattr(tensor, DONE, True)
        setattr(module, DONE, not computed)
    model.initialize_weights()
    return model


class InputGradients:
    """Let gradients reach a checkpointed model whose embedding is frozen: a forward hook of the embedding.

    Reentrant checkpointing runs backward only through blocks of which an input requires a gradient. With adapters on a
    frozen base none does. The hook does nothing while the model is not checkpointed.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, embedding: nn.Module, args: tuple, output: Tensor) -> None:
        """Make the embedded tokens require gradients.

        Args:
            embedding: the module that takes tokens.
            args: what it was called with.
            output: the embedded tokens.
        """
        checkpointed = any(getattr(m, "gradient_checkpointing", False) for m in self.model.modules())
        if checkpointed and embedding.training and torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_(True)

    @staticmethod
    def of(model: Any) -> None:
        """Attach the hook where the model takes its tokens, if it says where."""
        with suppress(NotImplementedError):
            model.get_input_embeddings().register_forward_hook(InputGradients(model))


def _put(model, names: list[str], value: Tensor) -> None:
    owner, _, last = names[0].rpartition(".")
    old = getattr(model.get_submodule(owner), last)
    if isinstance(old, nn.Parameter):
        value = nn.Parameter(value, old.requires_grad)
    for name in names:
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, value)
