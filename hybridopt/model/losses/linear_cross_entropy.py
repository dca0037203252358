"""Output layer and cross entropy in one, so that only a tile of the logits is there at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...core.errors import HybridOptError, check_count

__all__ = ["IGNORED", "differing", "linear_cross_entropy", "only_tiles_that_differ"]

IGNORED = -100
Layer = tuple[Tensor, Tensor | None]  # weight and bias
ALIGNED = 64  # rows of the weight come in multiples of it, where several do
DIFFER = 2  # tiles at the beginning: the second finds what the first has left, as all later ones do
_few = ContextVar("few", default=False)


@contextmanager
def only_tiles_that_differ() -> Iterator[None]:
    """Work out, within the block, no tiles but the first two and the last: loss and gradients are then wrong.

    What is alive at once is as ever, so that memory is planned in the same time however many tokens there are.
    """
    before = _few.set(True)
    try:
        yield
    finally:
        _few.reset(before)


def differing(starts: range) -> tuple[int, ...]:
    """Return where those tiles begin that differ in what is alive at once: the first two and the last.

    Args:
        starts: where all tiles begin.
    """
    return *starts[:DIFFER], *starts[DIFFER:][-1:]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    chunk: int = 256,
    ignore_index: int = IGNORED,
    bend: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the sum of the cross entropies of `bend(hidden @ weight.T + bias)` over labels that are not ignored.

    Never more than chunk x words logits are there. Backward computes them again: a few tokens at a time for the
    gradient of `hidden`, and, where the weight is trained, a few words at a time for its own, so that every gradient
    comes out of one matrix product and none is summed up in a narrow dtype.

    Args:
        hidden: [tokens, width].
        weight: [words, width].
        labels: [tokens], int64.
        bias: [words], or None.
        chunk: tokens whose logits are computed at a time.
        ignore_index: the label of tokens that do not count.
        bend: a function of single logits, such as a soft cap; None: none.

    Returns:
        The sum, float32, shape [].

    Raises:
        HybridOptError: for shapes that do not fit together.
    """
    check_count("linear_cross_entropy", "chunk", chunk, 1)
    if hidden.ndim != 2 or weight.shape[1:] != hidden.shape[1:] or labels.shape != hidden.shape[:1]:
        raise HybridOptError(
            f"linear_cross_entropy: hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and labels "
            f"{tuple(labels.shape)} must be [tokens, width], [words, width] and [tokens]"
        )
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    with torch.autocast(kind, enabled=False):
        return _Sum.apply(hidden, weight, bias, labels, _Tiles(chunk, ignore_index, bend))


@dataclass(frozen=True)
class _Tiles:
    """How the logits are cut into tiles, and what is done to them; arguments as of `linear_cross_entropy`."""

    chunk: int
    ignore_index: int
    bend: Callable[[Tensor], Tensor] | None
    few: bool = field(default_factory=_few.get)  # are only those worked out that differ?

    def rows(self, tokens: int) -> Iterator[slice]:
        """Yield the pieces into which the tokens are cut."""
        return self._pieces(tokens, self.chunk)

    def words(self, tokens: int, words: int) -> Iterator[slice]:
        """Yield the pieces into which the words are cut where all tokens are taken together.

        A tile of all tokens is then about as large as one of `chunk` tokens with all words.
        """
        return self._pieces(words, max(self.chunk * words // max(tokens, 1) // ALIGNED, 1) * ALIGNED)

    def _pieces(self, size: int, step: int) -> Iterator[slice]:
        starts = range(0, size, step)
        for i in differing(starts) if self.few else starts:
            yield slice(i, min(i + step, size))

    def logits(self, hidden: Tensor, layer: Layer) -> Tensor:
        """Return the float32 logits of a tile, in memory of their own."""
        raw = F.linear(hidden, *layer)
        return (raw if self.bend is None else self.bend(raw)).float()

    def gradient(self, given: Tensor, hidden: Tensor, layer: Layer, labels: Tensor, normalizer: Tensor) -> Tensor:
        """Return the gradient of a tile of logits before they are bent, in the dtype of `hidden`.

        Args:
            given: [tokens, 1], the gradient of each token's loss.
            hidden: [tokens, width].
            layer: weight [words, width] and bias of the tile's words.
            labels: [tokens], counted from the tile's first word.
            normalizer: [tokens], log sum exp of all logits.
        """
        if self.bend is None:
            made = self.logits(hidden, layer)
            return _softmax_gradient_(made, given, labels, normalizer).to(hidden.dtype)
        raw = F.linear(hidden, *layer).requires_grad_()
        with torch.enable_grad():
            bent = self.bend(raw).float()
        made = _softmax_gradient_(bent.detach().clone(), given, labels, normalizer)
        return torch.autograd.grad(bent, raw, made)[0]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, tiles):
        counts = labels != tiles.ignore_index
        labels = labels.masked_fill(~counts, 0)
        normalizer = torch.empty(len(hidden), device=hidden.device)
        total = torch.zeros((), device=hidden.device)
        for rows in tiles.rows(len(hidden)):
            normalizer[rows], chosen = _normalizer(tiles.logits(hidden[rows], (weight, bias)), labels[rows])
            total += (normalizer[rows] - chosen).masked_fill(~counts[rows], 0).sum()
        ctx.save_for_backward(hidden, weight, bias, labels, counts, normalizer)
        ctx.tiles = tiles
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, given):
        hidden, weight, bias, labels, counts, normalizer = ctx.saved_tensors
        per_token = torch.where(counts, given, 0)[:, None]
        needs_hidden, *needs_layer = ctx.needs_input_grad[:3]
        of_hidden: Tensor | None = None
        of_layer: tuple[Tensor | None, Tensor | None] = (None, None)
        known = (ctx.tiles, per_token, hidden, (weight, bias), labels, normalizer)
        if needs_hidden:
            of_hidden = _of_hidden(*known)
        if any(needs_layer):
            of_layer = _of_layer(*known)
        return of_hidden, *of_layer, None, None


def _of_hidden(tiles, given, hidden, layer, labels, normalizer) -> Tensor:
    out = torch.empty_like(hidden)
    for rows in tiles.rows(len(hidden)):
        out[rows] = tiles.gradient(given[rows], hidden[rows], layer, labels[rows], normalizer[rows]) @ layer[0]
    return out


def _of_layer(tiles, given, hidden, layer, labels, normalizer) -> Layer:
    weight, bias = layer
    of_weight, of_bias = torch.empty_like(weight), None if bias is None else torch.empty_like(bias)
    for words in tiles.words(len(hidden), len(weight)):
        piece = (weight[words], None if bias is None else bias[words])
        made = tiles.gradient(given, hidden, piece, labels - words.start, normalizer)
        of_weight[words] = made.t() @ hidden
        if of_bias is not None:
            of_bias[words] = made.sum(0, dtype=torch.float32)
    return of_weight, of_bias


def _normalizer(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log sum exp of every row and the logit of its label, both [tokens]; `logits` is used up."""
    chosen = logits.gather(-1, labels[:, None])[:, 0]
    top = logits.amax(-1, keepdim=True)
    return logits.sub_(top).exp_().sum(-1).log_().add_(top[:, 0]), chosen


def _softmax_gradient_(logits: Tensor, given: Tensor, labels: Tensor, normalizer: Tensor) -> Tensor:
    """Return given * (softmax - one-hot), in place of the logits; labels outside the tile are left out."""
    chance = logits.sub_(normalizer[:, None]).exp_()
    inside = (labels >= 0) & (labels < chance.shape[1])
    at = labels.clamp(0, chance.shape[1] - 1)[:, None]
    return chance.scatter_add_(1, at, -inside[:, None].to(chance.dtype)).mul_(given)
