"""Every way to train adapters on layers that rest elsewhere, beside the same training of a resident model."""

from dataclasses import dataclass
from functools import cache
from itertools import product

import torch

from support.placed import Trained, Training, adapted, model_at, stand_in, train

SCHEMES = (None, "nf4", "fp4", "int8")
CHECKPOINTING = (None, "reentrant", "non-reentrant")
TARGETS = ("all", "q, v")
RELEASES = ("accumulate", "fused")
WAYS = ("mapped", "staged")


@dataclass(frozen=True)
class Cell:
    """A training, and how its layers are placed."""

    training: Training
    way: str

    def __str__(self):
        return f"{self.training}, {self.way}"


CELLS = tuple(
    Cell(Training(*axes[:-1]), axes[-1]) for axes in product(SCHEMES, CHECKPOINTING, TARGETS, RELEASES, WAYS)
)
# A quarter of them: every two values of scheme, checkpointing and way meet under one of the targets of the scheme.
WALKED = tuple(
    cell
    for cell in CELLS
    if TARGETS.index(cell.training.targets) == SCHEMES.index(cell.training.scheme) % 2
    and RELEASES.index(cell.training.release)
    == (CHECKPOINTING.index(cell.training.checkpointing) + WAYS.index(cell.way)) % 2
)


class Models:
    """Models that train again and again from the same start: one for each scheme, targets and way."""

    def __init__(self, steps: int):
        self.steps = steps
        self.model = cache(self._model)
        self.resident = cache(self._resident)

    def trained(self, cell: Cell) -> Trained:
        """What comes of a cell."""
        model, start = self.model(cell.training.scheme, cell.training.targets, cell.way)
        return self._run(model, start, cell.training.checkpointing, cell.training.release)

    def _resident(self, scheme, targets, checkpointing=None, release="accumulate") -> Trained:
        return self._run(*self.model(scheme, targets, "resident"), checkpointing, release)

    def _model(self, scheme, targets, way, backend=None):
        if backend is None:
            model = model_at(way, scheme)
        else:
            stand_in(model := model_at("resident", scheme), backend=backend)
        model = adapted(model, Training(scheme, targets=targets))
        model.enable_input_require_grads()
        return model, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def _run(self, model, start, checkpointing, release) -> Trained:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in start:
                    p.copy_(start[name])
        if checkpointing is None:
            model.gradient_checkpointing_disable()
        else:
            how = {"use_reentrant": checkpointing == "reentrant"}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        return train(model, self.steps, release)
