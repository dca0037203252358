"""Let a model that is planned compute its loss in the tiles in which TRL's trainers do."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.model.adapters import bare

__all__ = ["TOKENS", "WORDS", "fuse_"]

TOKENS, WORDS = 4096, 32768  # of a tile: trl.kernels.chunked_logprob, trl.trainer.utils
SUMS = 7  # numbers that are kept for each token
OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")


def fuse_(model: nn.Module, device: str) -> None:
    """Change the forward method of a model on meta: with labels it returns the loss as TRL computes it.

    Args:
        model: a causal language model, with adapters or without.
        device: "cpu": by TRL's own function, in no more tiles than differ; "cuda": by one that takes the memory which
            TRL's kernels take there.
    """
    causal: Any = bare(model)
    if device == "cuda":
        causal.forward = partial(_forward, causal)
        return
    from trl.trainer.utils import add_fused_lm_head

    from .few_tiles import with_few_tiles

    add_fused_lm_head(causal, outputs=OUTPUTS)
    causal.forward = with_few_tiles(partial(causal.forward, fused_lm_head=True))


class _Loss:
    """The output of a model: its loss.

    Args:
        loss: shape [].
    """

    def __init__(self, loss: Tensor):
        self.loss = loss


def _forward(model: Any, *args: Any, labels: Any = None, **kwargs: Any) -> _Loss:
    hidden = model.base_model(*args, **kwargs | {"use_cache": False}).last_hidden_state[:, :-1]
    layer = model.get_output_embeddings()
    flat = hidden.reshape(-1, hidden.shape[-1]).clone()  # of the tokens that are trained: all of them at most
    return _Loss(_Tiles.apply(flat, layer.weight, layer.bias).sum())


class _Tiles(torch.autograd.Function):
    """Takes and frees memory as TRL's ChunkedLogProbFunction does with its kernels; the values are none."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        sums = [hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(SUMS)]
        tile = hidden.new_empty(min(len(hidden), TOKENS), WORDS)
        ctx.save_for_backward(hidden, weight, bias)
        del tile
        return sums[0].clone()

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        kept = ctx.saved_tensors
        sums = [
            torch.zeros_like(x, dtype=torch.float32) if needed else None
            for x, needed in zip(kept, ctx.needs_input_grad, strict=True)
        ]
        tile = kept[0].new_empty(min(len(kept[0]), TOKENS), WORDS)
        found = tuple(None if x is None else x.to(own.dtype) for x, own in zip(sums, kept, strict=True))
        del tile
        return found
