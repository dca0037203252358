"""Count one step of an optimizer over parameters of given shapes."""

from functools import cache

import torch
from torch import Tensor, nn

from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.parts.stores._int8_weight import Int8Weight

from .fake_cuda import Counts, FakeCuda
from .rows import SHAPES, Row
from .stand_ins import stand_ins

__all__ = ["counted"]

STEPS = 3  # the last one is counted: then all state is there, and every number has been sent once


class Holder(nn.Module):
    """A module that uses its weight."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        """Return a number of the weight, without reading all of it."""
        return self.weight.view(-1)[0]


class Held(nn.ModuleDict):
    """Modules that each use their weight."""

    def forward(self) -> Tensor:
        """Return the sum of their numbers."""
        return torch.stack([module() for module in self.values()]).float().sum()


def counted(row: Row, kind: str = "cuda") -> tuple[dict, Counts]:
    """Count the third step of an optimizer over bfloat16 parameters.

    Args:
        row: how they are trained.
        kind: of the device; see `FakeCuda`.

    Returns:
        The counts by kind, or "refused" or "error" with what was said instead; and where they come from.
    """
    try:
        found = _counts(row, kind)
    except HybridOptError as error:
        return {"refused": str(error)}, Counts()
    except Exception as error:  # a row that fails is a result, too: of tensors on two devices, for example
        return {"error": f"{type(error).__name__}: {error}"}, Counts()
    return dict(found.of), found


def _counts(row, kind):
    mode = _mode(kind)
    with stand_ins(mode), mode:
        weights = {name: _weight(shape, row, kind) for name, shape in SHAPES[row.shapes].items()}
        model = Held({name.replace(".", "-"): Holder(weight) for name, weight in weights.items()})
        optimizer = HybridOptimizer(
            weights.items(), lr=1e-3, policy=row.policy, release=row.release, module=model, **row.options
        )
        for _ in range(STEPS):
            with mode.counted() as found:
                _step(optimizer, weights, model, found)
            optimizer.zero_grad()
    return found


def _weight(shape, row, kind):
    weight = torch.empty(shape, dtype=torch.bfloat16, device=kind)
    return nn.Parameter(Int8Weight.quantize(weight) if row.coded and len(shape) > 1 else weight)


@cache
def _mode(kind: str) -> FakeCuda:
    """Return the one mode of this process: kernels and numbers of earlier rows are used again, as on a device."""
    return FakeCuda(kind)


def _step(optimizer: HybridOptimizer, weights: dict[str, nn.Parameter], model: Held, found: Counts) -> None:
    optimizer.observe(1.0)  # for windows that follow the loss
    if optimizer.probes_needed:
        optimizer.probe(model)
    for name, weight in reversed(weights.items()) if optimizer.gradients_needed else ():
        weight.grad = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        if optimizer.release != "accumulate":
            before = _stops(found)
            optimizer.gradient_ready(name, weight)
            found.of["midway"] += _stops(found) - before
    optimizer.step()


def _stops(found: Counts) -> int:
    return found.of["waits"] + found.of["copies"]
