"""Updates that need a whole parameter: each is made by one rank, to which the others send their rows.

All ranks work at the same time, each at a parameter of its own: one exchange brings every rank the rows of weights and
gradients, one brings the new weights back. State stays with the rank that updates, whole. Per parameter a rank of n
sends and gets 1/n of its bytes of weight and gradient, and of new weight; to gather everything on all ranks would cost
n times as much at the getting end, and every update n times over.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.contracts import CodedWeight
from ...core.errors import HybridOptError
from ..conditional_updates import plain_tensors
from ..update_task import Task
from .collectives import exchange, failures
from .rows import RankRows
from .work_division import Share

__all__ = ["FLAG", "MOST", "Gathered", "run_whole"]

MOST = 1 << 24  # bytes that a rank gets at one time, but for a single parameter that has more
FLAG = 8  # bytes that say whether a rank has failed


@dataclass(frozen=True, eq=False)
class Gathered:
    """A parameter that one rank updates.

    Args:
        param: this rank's rows of the weight, contiguous; codes of them where it is kept as codes.
        grad: the same rows of the gradient of the backward pass; None where there is none, as with probes.
        share: who updates it, and who has which rows.
        shape: of the whole parameter.
        task: makes the task of the whole weight, and of its gradient if there is one, on the rank that updates.
    """

    param: Tensor
    grad: Tensor | None
    share: Share
    shape: tuple[int, ...]
    task: Callable[..., Task]

    @property
    def sent(self) -> list[Tensor]:
        """Return what the rank that updates has to get: rows of the weight, and of its gradient."""
        return [self.param] if self.grad is None else [self.param, self.grad]

    def size(self, rank: int) -> int:
        """Return the bytes that a rank has of what is sent."""
        first, end = self.share.rows.cut(rank)
        return sum(self._bytes(x, end - first) for x in self.sent)

    def empty(self) -> list[Tensor]:
        """Return room for what all ranks have of what is sent."""
        rows = self.share.rows.total
        return [x.zeros(rows) if isinstance(x, CodedWeight) else x.new_empty(self.shape) for x in self.sent]

    def part(self, x: Tensor, rank: int) -> tuple[Tensor, ...]:
        """Return what a rank has of a whole weight or gradient, as the tensors that it consists of."""
        first, end = self.share.rows.cut(rank)
        return plain_tensors(x[first:end]) if first < end else ()

    def _bytes(self, x: Tensor, rows: int) -> int:
        if isinstance(x, CodedWeight):
            return x.bytes_of(rows)
        return rows * torch.Size(self.shape[1:]).numel() * x.element_size()


def run_whole(work: Sequence[Gathered], run: Callable[[list[Task]], object]) -> None:
    """Let every rank update the parameters that it owns; `run` carries tasks out.

    Ranks must come with the same parameters in the same order. Raises HybridOptError on all ranks if one fails.
    """
    groups: dict[int, list[Gathered]] = {}
    for one in work:
        groups.setdefault(id(one.share.rows.group), []).append(one)
    for same in groups.values():
        rows = same[0].share.rows
        for batch in _batches(same, rows.ranks):
            _together(batch, rows, run)


def _batches(work: Sequence[Gathered], ranks: int) -> Iterator[list[list[Gathered]]]:
    """Yield what is done at one time: a list of parameters for every rank, in the same order on all ranks."""
    waiting: list[list[Gathered]] = [[] for _ in range(ranks)]
    for one in work:
        waiting[one.share.owner].append(one)
    while any(waiting):
        batch = []
        for mine in waiting:
            many, size = 0, 0
            while many < len(mine) and (many == 0 or size + _size(mine[many]) <= MOST):
                size += _size(mine[many])
                many += 1
            batch.append(mine[:many])
            del mine[:many]
        yield batch


def _size(one):
    return sum(one.size(rank) for rank in range(one.share.rows.ranks))


def _together(batch: list[list[Gathered]], rows: RankRows, run: Callable[[list[Task]], object]) -> None:
    mine = batch[rows.rank]
    sizes = [sum(one.size(rank) for one in mine) for rank in range(rows.ranks)]
    sent = [[x for one in some for tensor in one.sent for x in plain_tensors(tensor)] for some in batch]
    wholes = _assembled(mine, exchange(sent, sizes, rows))
    said = _update(mine, wholes, run)
    flag = torch.full((FLAG,), said is not None, dtype=torch.uint8, device=rows.device)
    back = [
        [flag, *[part for one, (x, *_) in zip(mine, wholes, strict=True) for part in one.part(x, rank)]]
        for rank in range(rows.ranks)
    ]
    sizes = [FLAG + sum(x.nbytes for one in some for x in plain_tensors(one.param)) for some in batch]
    got = exchange(back, sizes, rows)
    if any(bool(x[0]) for x in got):
        _raise(said, rows)
    for some, data in zip(batch, got, strict=True):
        _take(some, data[FLAG:])


def _assembled(mine, came):
    """Return weight and gradient, if there is one, of every parameter from the bytes of every rank."""
    wholes = [one.empty() for one in mine]
    for rank, data in enumerate(came):
        at = 0
        for one, some in zip(mine, wholes, strict=True):
            for part in (part for x in some for part in one.part(x, rank)):
                at = _fill(part, data, at)
    return wholes


def _fill(x, data, at):
    """Fill a tensor from bytes, from a place on; return the place after it."""
    end = at + x.nbytes
    if x.numel():
        x.view(-1).view(torch.uint8).copy_(data[at:end])
    return end


def _update(mine, wholes, run) -> str | None:
    """Update what this rank owns; return what went wrong, as the others still wait for their rows."""
    try:
        run([one.task(*some) for one, some in zip(mine, wholes, strict=True)])
    except Exception as error:
        return str(error) if isinstance(error, HybridOptError) else f"{type(error).__name__}: {error}"
    return None


def _raise(said: Any, rows: RankRows) -> None:
    rank, text = failures(said, rows)[0]
    raise HybridOptError(
        f"rank {rank}, which updates some parameters for all, has failed, so that this step is done in part: {text}. "
        "Start again from the last checkpoint"
    )


def _take(some, data):
    at = 0
    for x in (x for one in some for x in plain_tensors(one.param)):
        at = _fill(x, data, at)
