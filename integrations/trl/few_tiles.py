"""TRL's loss in tiles, of which only those are worked out that differ, as plans need no others."""

import builtins
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

from trl.kernels import chunked_logprob
from trl.trainer import utils

from hybridopt.core.patching import instead
from hybridopt.model.losses.linear_cross_entropy import differing

__all__ = ["with_few_tiles"]


def with_few_tiles(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward method whose loss, and gradients, are worked out in the first two tiles and the last alone.

    The numbers are then wrong; what is alive at once is as ever.

    Args:
        forward: of a model that computes its loss by TRL's ChunkedLogProbFunction.
    """

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with instead(utils, "_ChunkedLogProbFunction", _FewTiles):
            return forward(*args, **kwargs)

    return run


class _FewTiles(chunked_logprob.ChunkedLogProbFunction):
    """TRL's function, which steps through tiles by `range`."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        with _few():
            return chunked_logprob.ChunkedLogProbFunction.forward(ctx, *args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        with _few():
            return chunked_logprob.ChunkedLogProbFunction.backward(ctx, *grads)


def _few() -> AbstractContextManager[None]:
    return instead(chunked_logprob, "range", lambda *numbers: differing(builtins.range(*numbers)), new=True)
