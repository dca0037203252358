"""Checks of gradients before they are used: are they dense and finite, and how large are they?"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ...core.errors import HybridOptError
from ...model.fsdp.sharded_tensors import is_sharded, whole

__all__ = [
    "NONFINITE",
    "check_dense",
    "first_not_finite",
    "fitting",
    "judged",
    "norm",
    "norms",
    "not_finite",
    "sums",
    "total",
    "worst",
]

NONFINITE = ("raise", "skip", "ignore")
PIECE = 1 << 18  # elements of a gradient that are there in float32 at a time
Named = list[tuple[str, Tensor]]


def check_dense(grads: Named) -> None:
    """Raise HybridOptError for sparse gradients."""
    for name, grad in grads:
        if grad.layout != torch.strided:
            raise HybridOptError(f"the gradient of {name!r} is sparse ({grad.layout}); use nn.Embedding(sparse=False)")


def not_finite(grads: Named, shown: list[Tensor]) -> str | None:
    """Return the name of the first gradient with NaN or infinity, None if there is none.

    grads: (name, gradient) pairs. shown: for every gradient a number in which such an entry shows, a sum or norm.
    Finite entries may make it overflow: then all are looked at closely. One synchronisation a device where everything
    is finite.
    """
    return None if _all_finite(shown) else _first(grads)


def judged(grads: Named, norms: list[Tensor]) -> tuple[str | None, list[Tensor]]:
    """Return what `not_finite` does of gradients and their norms, and the norms as `fitting` does, on any device."""
    if _all_finite(norms):
        return None, norms
    bad = _first(grads)
    return bad, norms if bad is not None else _wide(grads)


def _first(grads: Named) -> str | None:
    return next((name for name, grad in grads if not bool(whole(grad.isfinite().all()))), None)


def first_not_finite(numbers: dict[str, Tensor]) -> str | None:
    """Return the name of the first number, shape [], that is NaN or infinite; None if there is none.

    One synchronisation a device where everything is finite.
    """
    if _all_finite(list(numbers.values())):
        return None
    return next((name for name, number in numbers.items() if not math.isfinite(number)), None)


def fitting(grads: Named, norms: list[Tensor]) -> list[Tensor]:
    """Return norms; where one on the host overflows float32, though no entry does, all in float64.

    Clipping by an infinite norm would make every gradient 0.

    Args:
        grads: (name, gradient) pairs.
        norms: of each, shape [], as `norms` returns them.
    """
    if all(norm.is_cpu for norm in norms) and any(map(math.isinf, norms)):
        return _wide(grads)
    return norms


def _wide(grads: Named) -> list[Tensor]:
    return _joined([torch.linalg.vector_norm(grad, dtype=torch.float64) for _, grad in grads])


def sums(grads: Named) -> list[Tensor]:
    """Return a number for every gradient in which NaN and infinity show, cheaper than its norm.

    A sum in float32, but on the CPU, where reading bfloat16 as float32 is 30 times slower, in the gradient's dtype.
    """
    found = [
        grad.sum(dtype=None if grad.is_cpu else torch.promote_types(grad.dtype, torch.float32)) for _, grad in grads
    ]
    return [x.float() for x in _joined(found)]


def norms(grads: Named) -> list[Tensor]:
    """Return the 2-norm of every gradient, of all its shards together: shape [], float32, or float64 for float64."""
    return _joined([_norm(grad) for _, grad in grads])


def norm(grad: Tensor) -> Tensor:
    """Return the 2-norm of a gradient, of all its shards together: shape [], float32, or float64 for float64."""
    return whole(_norm(grad))


def worst(grad: Tensor) -> Tensor:
    """Return a number, shape [], that is finite if all entries of a gradient are, of all its shards together."""
    if not is_sharded(grad):
        return torch.linalg.vector_norm(grad, torch.inf)
    from torch.distributed.tensor import DTensor, Partial, Replicate

    live: Any = grad
    own = live.to_local()
    largest = torch.linalg.vector_norm(own, torch.inf) if own.numel() else own.new_zeros(())
    parts = [Replicate() if x.is_replicate() else Partial() for x in live.placements]
    shown: Tensor = DTensor.from_local(largest * 0, live.device_mesh, parts, run_check=False)  # infinity is NaN then
    return whole(shown)


def _norm(grad):
    halves = grad.is_cpu and grad.element_size() == 2 and grad.is_contiguous() and not is_sharded(grad)
    if halves and grad.numel() > PIECE:  # read as float32 number by number they would take twice as long
        room = torch.empty(PIECE, dtype=torch.float32, device=grad.device)
        pieces = (room[: len(piece)].copy_(piece) for piece in grad.view(-1).split(PIECE))
        return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(piece) for piece in pieces]))
    return torch.linalg.vector_norm(grad, dtype=torch.float64 if grad.dtype == torch.float64 else torch.float32)


def _joined(numbers: list[Any]) -> list[Tensor]:
    """Return numbers that were worked out on shards as numbers of the whole: one reduction for all of them."""
    out, alike = list(numbers), dict[tuple, list[int]]()
    for i, x in enumerate(numbers):
        if is_sharded(x):
            alike.setdefault((x.device_mesh, x.placements, x.dtype), []).append(i)
    for (mesh, placements, _), places in alike.items():
        mine = torch.stack([numbers[i].to_local() for i in places])
        found = whole(type(numbers[places[0]]).from_local(mine, mesh, placements, run_check=False))
        for i, x in zip(places, found.unbind(), strict=True):
            out[i] = x
    return out


def total(norms: Iterable[Tensor]) -> Tensor | None:
    """Return the norm of all gradients from the norms of each, on the first one's device; nothing waits for it."""
    norms = list(norms)
    if not norms:
        return None
    widest = torch.float64 if any(x.dtype == torch.float64 for x in norms) else norms[0].dtype
    return torch.linalg.vector_norm(torch.stack([x.to(norms[0].device, widest) for x in norms]))


def _all_finite(numbers: list[Tensor]) -> bool:
    """Return whether all numbers are finite; waits once for every device."""
    if len(numbers) == 1:
        return math.isfinite(numbers[0])
    by_device: dict[torch.device, list[Tensor]] = {}
    for number in numbers:
        by_device.setdefault(number.device, []).append(number)
    return all(bool(torch.stack(some).isfinite().all()) for some in by_device.values())
