"""CAME."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State, found
from ...core.errors import HybridOptError, check_number
from . import _factored

__all__ = ["CAME"]


@dataclass(frozen=True)
class CAME(Rule):
    """Momentum of factored updates, over a factored measure of how far they stray from it (Luo et al. 2023, Alg. 2).

    betas: of the momentum, the second moment and the confidence. eps: added to the squares of the gradient and of the
    residual. clip_threshold: the largest root mean square of an update before momentum.

    bias_correction divides every mean by 1 - beta ** step, as Adam does: steps of 1.1 lr at first, 0.25 lr in the end.
    False is the paper's: nothing corrects the start from zero, and the confidence makes first steps of 11 lr, which
    shrink to the same 0.25 lr over 1 / (1 - betas[2]) steps, so that short runs want a rate 30 times lower.
    """

    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999)
    eps: tuple[float, float] = (1e-30, 1e-16)
    clip_threshold: float = 1.0
    bias_correction: bool = True
    looks = 3

    def __post_init__(self) -> None:
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 3:
            raise HybridOptError(f"betas={self.betas!r} is not allowed; give three numbers in [0, 1)", "CAME")
        for i, beta in enumerate(self.betas):
            check_number("CAME", f"betas[{i}]", beta, 0, 1, open_end=True)
        if self.betas[0] == 0:
            raise HybridOptError(
                "betas[0]=0 leaves no residual to measure; give a number in (0, 1), or adafactor", "CAME"
            )
        if not isinstance(self.bias_correction, bool):
            raise HybridOptError(
                f"bias_correction={self.bias_correction!r} is not allowed; give True or False", "CAME"
            )
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "eps", _factored.check("CAME", self.eps, self.clip_threshold))

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare momentum, 4 bytes an element; second moment and, but for vectors, confidence by row and column."""
        second, confidence = _factored.slots(shape), _factored.slots(shape, "exp_avg_res")
        return {"exp_avg": Slot(shape), **second, **(confidence if shape[-2] > 1 else {})}

    def numbers(self, step: int) -> dict[str, float]:
        """Return the bias corrections, all 1 where they are switched off, as in the paper."""
        names = ("momentum", "second", "confidence")
        return {k: 1 - b**step if self.bias_correction else 1.0 for k, b in zip(names, self.betas, strict=True)}

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Find squares of the gradient; the size of u = g / sqrt(V); squares of u - m, by the momentum to come.

        Args:
            i: round, 0 to 2.
            grad: rows of the gradient, [..., rows, n].
            state: momentum "exp_avg", [..., rows, n], read in round 2.
            param: not read.
            now: from round 1 "by_row" and "by_col", in round 2 also "scale".
        """
        if i == 0:
            return _factored.look(0, grad, None, now)
        if i == 1:
            return {"update": (grad * now["by_row"] * now["by_col"]).square().sum(-1, keepdim=True)}, {}
        squares = _factored.sums((self._clipped(grad, now) - state["exp_avg"]) * self.betas[0])
        return {"residual": squares["row"]}, {"residual": squares["col"]}

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """Find the factors of 1 / sqrt(V); how much of the update is clipped; the factors of the confidence.

        Args:
            i: round, 0 to 2.
            rows: "row", squares; then "update", sizes; then "residual", squares: [..., m, 1].
            sums: "col", squares; then empty; then "residual", squares: [..., 1, n].
            state: means of rows [..., m] and of columns [..., n], moved in place.
            now: the bias corrections; from round 1 "by_row" and "by_col".
        """
        if i == 0:
            squares = {"row": rows["row"], "col": sums["col"]}
            by_row, by_col = _factored.factors(state, squares, 1 - self.betas[1], self.eps[0])
            return {"by_row": by_row}, {"by_col": by_col * now["second"] ** 0.5}
        if i == 1:
            size = found(now, "by_row").shape[-2] * found(now, "by_col").shape[-1]
            mean = rows["update"].sum(-2, keepdim=True) / size
            return {}, {"scale": _factored.clip(mean, self.clip_threshold)}
        if "exp_avg_res_row" not in state:
            return {}, {"confidence_col": 1 / now["momentum"] * torch.ones_like(found(now, "by_col"))}
        squares = {"row": rows["residual"], "col": sums["residual"]}
        by_row, by_col = _factored.factors(state, squares, 1 - self.betas[2], self.eps[1], "exp_avg_res")
        correction = now["confidence"] ** 0.5 / now["momentum"]
        return {"confidence_row": by_row}, {"confidence_col": by_col * correction}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return m / sqrt(S): m is the running mean of u = g / sqrt(V), clipped, S that of (u - m)^2, factored.

        Args:
            grad: g, [..., rows, n].
            state: momentum m, "exp_avg", shape of `grad`; moved in place.
            param: not read.
            now: factors "by_row" and "confidence_row", [..., rows, 1], "by_col" and "confidence_col", [..., 1, n],
                "scale", [..., 1, 1].
        """
        m = state["exp_avg"].lerp_(self._clipped(grad, now), 1 - self.betas[0])
        return (m * now["confidence_row"] if "confidence_row" in now else m) * now["confidence_col"]

    def _clipped(self, grad: Tensor, now: Numbers) -> Tensor:
        return grad * now["by_row"] * now["by_col"] * now["scale"]
