"""Gradients of known spectra, and what finding a subspace of them takes and gives."""

from statistics import median

import torch
from torch import Tensor

from hybridopt.core.contracts import Draw, Part
from hybridopt.parts.splits.random import Random
from hybridopt.parts.splits.svd import Svd

from ..shared.timing import clock

__all__ = ["gradients", "measure"]


def gradients(rows: int, cols: int, power: float) -> list[Tensor]:
    """Return the gradients of two windows, which share half of their energy; singular values fall as 1 / k^power."""
    generator = torch.Generator().manual_seed(0)
    small = min(rows, cols)
    values = torch.arange(1, small + 1).float().pow(-power)
    found = []
    for _ in range(2):
        u, v = (torch.linalg.qr(torch.randn(side, small, generator=generator))[0] for side in (rows, cols))
        found.append(u * values @ v.mT)
    return [found[0], (found[0] + found[1]) / 2**0.5]


def measure(grads: list[Tensor], density: float, rounds: int) -> dict:
    """Time what finds subspaces, in turns, and take the median of the seconds of processor time.

    Args:
        grads: of two windows.
        density: share of the directions.
        rounds: how often everything is done.

    Returns:
        rank; seconds by what was done: "exact", "first" (from noise), "later" (from the last basis), "random"; and
        energies, as shares of what the exact directions hold: "first", "before" (the old basis, the new gradient) and
        "later".
    """
    shape = tuple(grads[0].shape)
    split = Svd(density, 1)
    parts = {
        "exact": Svd(density, 1, solver="exact").at(Draw(0, "w"), shape),
        "first": split.at(Draw(0, "w"), shape),
        "later": split.at(Draw(0, "w"), shape),
        "random": Random(density, 1).at(Draw(0, "w"), shape),
    }
    first = _basis(parts["first"], grads[0])
    times: dict[str, list[float]] = {name: [] for name in parts}
    held: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, part in parts.items():
            later = name == "later"
            start = {"basis": first["basis"].clone()} if later else None
            before = clock()
            basis = _basis(part, grads[later], start)
            times[name].append(float((clock() - before)[1]))
            held[name] = basis["basis"]
    exact = [_energy(parts["exact"], g, _basis(parts["exact"], g)) for g in grads]
    energies = {
        "first": _energy(parts["first"], grads[0], first) / exact[0],
        "before": _energy(parts["first"], grads[1], first) / exact[1],
        "later": _energy(parts["later"], grads[1], {"basis": held["later"]}) / exact[1],
    }
    rank = first["basis"].shape[-1]
    return {"rank": rank, "seconds": {name: median(found) for name, found in times.items()}, "energies": energies}


def _basis(part: Part, grad: Tensor, start: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    (slot,) = part.slots(tuple(grad.shape)).values()
    basis = {"basis": torch.zeros(slot.shape)} if start is None else start
    part.sample(grad, basis, Draw(0, "w", int(start is not None), fresh=start is None))
    return basis


def _energy(part: Part, grad: Tensor, basis: dict[str, Tensor]) -> float:
    low = part.down(grad, basis)
    assert low is not None
    return float(low.square().sum())
