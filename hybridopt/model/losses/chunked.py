"""The loss of causal language models without the logits of the whole batch, which take more memory than most else.

At 128 256 words, the logits of 2048 tokens with their float32 copy and its gradient take 2.9 GiB.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import HybridOptError, check_count
from ...core.patching import instead
from ..adapters import bare, whole_copies
from .deferred import Logits, refuse
from .linear_cross_entropy import IGNORED, linear_cross_entropy

__all__ = ["chunked_loss"]


@contextmanager
def chunked_loss(model: nn.Module, chunk: int = 256) -> Iterator[nn.Module]:
    """Compute `model(input_ids, labels=labels).loss` within the block `chunk` tokens at a time.

    For transformers' causal language models, with adapters or without: loss and gradients are those of the plain loss
    up to rounding, in about 6 bytes for each of chunk x words, and the output has no logits. Calls without labels are
    as ever, and so is everything after the block.

    Raises:
        HybridOptError: at the start of the block for a model without plain linear output layer, with another loss or
            compiled, and in the first forward pass for one that does more to its logits than scale, cast or bend them
            (tanh).
    """
    check_count("chunked_loss", "chunk", chunk, 1)
    causal = _causal(model)
    layers, now = _output_layers(causal), _Now(chunk)
    # Partial functions and bound methods: a copy of the model made within the block calls its own modules.
    outputs = [functools.partial(_output, now, layer, layer.forward) for layer in layers]
    forward = functools.partial(_forward, now, causal.forward)
    functools.update_wrapper(forward, causal.forward)  # Trainer reads the names of the columns from the signature
    with ExitStack() as undo:
        for layer, output in zip(layers, outputs, strict=True):
            undo.enter_context(instead(layer, "forward", output))
        undo.enter_context(instead(causal, "_loss_function", functools.partial(_loss, now), new=True))
        undo.enter_context(instead(causal, "forward", forward))
        yield model


@dataclass
class _Now:
    """State that the patched pieces of one model share.

    Args:
        chunk: tokens whose logits are computed at a time.
        labelled: is a forward pass with labels under way?
    """

    chunk: int
    labelled: bool = False


def _forward(now: _Now, inner: Callable, *args, **kwargs):
    given = inspect.signature(inner).bind_partial(*args, **kwargs).arguments
    now.labelled = given.get("labels") is not None
    try:
        return _without_logits(inner(*args, **kwargs))
    finally:
        now.labelled = False


def _output(now: _Now, layer: nn.Linear, inner: Callable, hidden: Tensor) -> Tensor | Logits:
    return Logits(hidden, layer) if now.labelled else inner(hidden)


def _loss(
    now: _Now,
    logits: Logits,
    labels: Any = None,
    vocab_size: int | None = None,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORED,
    shift_labels: Tensor | None = None,
    **_,
) -> Tensor:
    """Compute what transformers' ForCausalLMLoss computes, from logits that are not there yet."""
    if not isinstance(logits, Logits):
        refuse("computes them by other means than its output layer")
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    hidden, layer = logits.hidden, logits.layer
    flat = shift_labels.reshape(-1).to(hidden.device)
    options: dict[str, Any] = {
        "chunk": now.chunk,
        "ignore_index": ignore_index,
        "bend": logits.bend if logits.steps else None,
    }
    total = linear_cross_entropy(hidden.reshape(-1, hidden.shape[-1]), layer.weight, flat, layer.bias, **options)
    count = (flat != ignore_index).sum() if num_items_in_batch is None else num_items_in_batch
    return total / torch.as_tensor(count, device=total.device)


def _without_logits(output):
    if isinstance(output, tuple):
        return tuple(x for x in output if not isinstance(x, Logits))
    if any(isinstance(x, Logits) for x in output.values()):
        return type(output)(**{name: x for name, x in output.items() if not isinstance(x, Logits)})
    return output


def _causal(model: nn.Module) -> Any:
    """Return the causal language model itself, from beneath its adapters; raise for anything else."""
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise HybridOptError("chunked_loss: the model is compiled; give the model as it was before, and compile none")
    causal = bare(model)
    if not hasattr(causal, "loss_function") or not hasattr(causal, "get_output_embeddings"):
        raise HybridOptError(f"chunked_loss: {type(causal).__name__} is no causal language model of transformers")
    from transformers.loss.loss_utils import ForCausalLMLoss

    loss = causal.loss_function
    if loss is not ForCausalLMLoss:
        here = isinstance(loss, functools.partial) and loss.func is _loss
        name = "in chunks already" if here else getattr(loss, "__name__", type(loss).__name__)
        raise HybridOptError(f"chunked_loss: the loss of {type(causal).__name__} is {name}, not ForCausalLMLoss")
    return causal


def _output_layers(causal: Any) -> list[Any]:
    """Return the output layer, with its copies where adapters train it as a whole."""
    layers = whole_copies(causal.get_output_embeddings())
    for layer in layers:
        weight = getattr(layer, "weight", None)
        if type(layer) is not nn.Linear or type(weight) is not nn.Parameter:
            raise HybridOptError(
                f"chunked_loss: the output layer is a {type(layer).__name__} with a {type(weight).__name__}, and must "
                "be a plain nn.Linear: leave it out of target_modules and of quantization, and do not shard it"
            )
    return layers
