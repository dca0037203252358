"""APOLLO."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State, found, portion
from ...core.errors import check_choice, check_count, check_number, check_share
from ...core.numerics.normal import normal
from .adamw import AdamW

__all__ = ["Apollo"]


@dataclass(frozen=True)
class Apollo(Rule):
    """The gradient, scaled as Adam scales a random projection of it (Zhu et al. 2024, Alg. 1).

    R = P G with P ~ N(0, 1/rank), the shorter side projected and P drawn anew every `update_gap` steps; it is never
    kept. The scale is that of a channel of the longer side, |Adam(R)_j| / |R_j|, or of the whole matrix ("tensor"),
    times sqrt(scale). limiter: the norm of the update grows by no more than this factor a step (None: as it likes).
    density: rank as a share of the shorter side; `rank` overrides it. A side no longer than the rank leaves nothing to
    project: such a matrix gets Adam itself. The matrices of a stack share P.
    """

    density: float = 0.25
    rank: int | None = None
    update_gap: int = 200
    scale: float = 1.0
    scale_type: str = "channel"
    limiter: float | None = 1.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    looks = 2  # norms and sizes of the sides, then the projection

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", self._adam.betas)
        check_share("Apollo", "density", self.density, 1e-9)
        check_number("Apollo", "scale", self.scale, 0)
        check_choice("Apollo", "scale_type", self.scale_type, ("channel", "tensor"))
        check_count("Apollo", "update_gap", self.update_gap, 1, 2**31)
        if self.rank is not None:
            check_count("Apollo", "rank", self.rank, 1, 2**31)
        if self.limiter is not None:
            check_number("Apollo", "limiter", self.limiter, 1)

    @cached_property
    def _adam(self) -> AdamW:
        return AdamW(self.betas, self.eps)

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare both moments of the projection, and a number: 8 rank bytes a channel and 4."""
        *stack, m, n = (1,) * (2 - len(shape)) + tuple(shape)
        rank = portion(self.density, min(m, n)) if self.rank is None else self.rank
        if rank >= min(m, n):
            return self._adam.slots(shape)
        low = (*stack, rank, n) if m <= n else (*stack, m, rank)
        moments = {"exp_avg": Slot(low, settled=True), "exp_avg_sq": Slot(low, signed=False, settled=True)}
        norm = {"update_norm": Slot((*stack, 1, 1), exact=True, settled=True)}
        return moments | (norm if self.limiter else {})

    def numbers(self, step: int) -> dict[str, float]:
        """Return Adam's bias corrections, and which projection is in turn."""
        return self._adam.numbers(step) | {"turn": float((step - 1) // self.update_gap)}

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Find squares of rows and columns, then the projection.

        Args:
            i: round, 0 or 1.
            grad: rows of the gradient, [..., rows, n].
            state: not read.
            param: not read.
            now: in round 1 P', "left" [..., rows, rank] or "right" [..., n, rank]; neither where nothing is projected.
        """
        if i == 0:
            square = grad.square()
            return {"square": square.sum(-1, keepdim=True)}, {"square": square.sum(-2, keepdim=True)}
        if "left" in now:
            return {}, {"low": found(now, "left").mT @ grad}
        return ({"low": grad @ now["right"]} if "right" in now else {}), {}

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """Draw the projection's matrix and find the norms of the channels; then find the scale.

        Args:
            i: round, 0 or 1.
            rows: "square", [..., m, 1]; then "low", the projection from the right.
            sums: "square", [..., 1, n]; then "low", the projection from the left.
            state: moments of the projection and the last norm, moved in place; empty where nothing is projected.
            now: "key", "turn", Adam's numbers; in round 1 also "size", norms of the channels.
        """
        if not state:
            return {}, {}
        return self._scale(rows, sums, state, now) if i else self._project(rows, sums, state, now)

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return the scaled gradient; Adam's direction where nothing is projected.

        Args:
            grad: [..., rows, n].
            state: Adam's moments where nothing is projected.
            param: not read.
            now: "scale", by row, by column or [..., 1, 1].
        """
        return grad * now["scale"] if "scale" in now else self._adam.update(grad, state, param, now)

    def _project(self, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """Return P' for the shorter side, [m, rank] or [n, rank], with the norms of the channels of the longer one."""
        (m, n), square = (rows["square"].shape[-2], sums["square"].shape[-1]), rows["square"]
        rank = state["exp_avg"].shape[-2 if m <= n else -1]
        basis = normal((min(m, n), rank), now["key"], now["turn"], square).mul_(rank**-0.5)
        if basis.ndim > 2:  # a key for each of a stack
            basis = basis.view(-1, *[1] * (square.ndim - 3), *basis.shape[-2:])
        if m <= n:
            return {"left": basis}, {"size": sums["square"].sqrt()}
        return {"size": square.sqrt()}, {"right": basis}

    def _scale(self, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """Return |Adam(R)| / |R| of every channel or of all, and no more than the limiter allows."""
        wide = "low" in sums
        low = sums["low"] if wide else rows["low"]
        dims: int | tuple[int, ...] = (-2, -1) if self.scale_type == "tensor" else (-2 if wide else -1)
        before, after = (_norm(x, dims) for x in (low, self._adam.update(low, state, None, now)))
        scale = torch.where(before > 0, after / before, 0)
        if self.limiter:
            scale = scale * self._limit(_norm(scale * now["size"], (-2, -1)), state["update_norm"], self.limiter)
        scale = scale * self.scale**0.5
        return ({}, {"scale": scale}) if wide or self.scale_type == "tensor" else ({"scale": scale}, {})

    def _limit(self, norm: Tensor, last: Tensor, limiter: float) -> Tensor:
        """Return by what the update is shortened, as in Fira (Chen et al. 2024); `last`: the last norm above zero."""
        most = limiter * last
        over = (last > 0) & (norm > most)
        kept = torch.where(over, most, norm)
        last.copy_(torch.where(kept > 0, kept, last))
        return torch.where(over, most / norm, 1)


def _norm(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
    return norm
