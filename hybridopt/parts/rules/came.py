"""CAME."""

from dataclasses import dataclass

import torch

from ...core.contracts import Slot
from ...core.errors import HybridOptError, check_number
from . import _factored

__all__ = ["CAME"]


@dataclass(frozen=True)
class CAME:
    """Momentum of factored updates, over a factored measure of how far they stray from it (Luo et al. 2023, Alg. 2).

    betas: of the momentum, the second moment and the confidence. eps: added to the squares of the gradient and of the
    residual. clip_threshold: the largest root mean square of an update before momentum.

    As in the paper, nothing corrects the start from zero: the confidence makes first steps of 11 lr, which shrink to
    0.25 lr over 1 / (1 - betas[2]) steps, so warm up. bias_correction=True divides every mean by 1 - beta ** step, as
    Adam does: 1.1 lr at first, the same 0.25 lr in the end. The learning rates of the paper are for False.
    """

    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999)
    eps: tuple[float, float] = (1e-30, 1e-16)
    clip_threshold: float = 1.0
    bias_correction: bool = False
    local = False
    reads_param = False
    looks = 3

    def __post_init__(self):
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 3:
            raise HybridOptError(f"CAME: betas={self.betas!r} is not allowed; give three numbers in [0, 1)")
        for i, beta in enumerate(self.betas):
            check_number("CAME", f"betas[{i}]", beta, 0, 1, open_end=True)
        if self.betas[0] == 0:
            raise HybridOptError(
                "CAME: betas[0]=0 leaves no residual to measure; give a number in (0, 1), or adafactor"
            )
        if not isinstance(self.bias_correction, bool):
            raise HybridOptError(f"CAME: bias_correction={self.bias_correction!r} is not allowed; give True or False")
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "eps", _factored.check("CAME", self.eps, self.clip_threshold))

    def slots(self, shape):
        """Momentum, 4 bytes an element; second moment and, but for vectors, confidence by row and by column."""
        second, confidence = _factored.slots(shape), _factored.slots(shape, "exp_avg_res")
        return {"exp_avg": Slot(shape), **second, **(confidence if shape[-2] > 1 else {})}

    def numbers(self, step):
        """Bias corrections, all 1 as in the paper unless asked for."""
        names = ("momentum", "second", "confidence")
        return {k: 1 - b**step if self.bias_correction else 1.0 for k, b in zip(names, self.betas, strict=True)}

    def look(self, i, grad, state, param, now):
        """Squares of the gradient; the size of u = g / sqrt(V); squares of u - m, with the momentum as it will be."""
        if i == 0:
            return _factored.look(0, grad, None, now)
        if i == 1:
            return {"update": (grad * now["by_row"] * now["by_col"]).square().sum(-1, keepdim=True)}, {}
        found = _factored.sums((self._clipped(grad, now) - state["exp_avg"]) * self.betas[0])
        return {"residual": found["row"]}, {"residual": found["col"]}

    def settle(self, i, rows, sums, state, now):
        """Factors of 1 / sqrt(V); how much of the update is clipped; factors of the confidence."""
        if i == 0:
            found = {"row": rows["row"], "col": sums["col"]}
            by_row, by_col = _factored.factors(state, found, 1 - self.betas[1], self.eps[0])
            return {"by_row": by_row}, {"by_col": by_col * now["second"] ** 0.5}
        if i == 1:
            size = now["by_row"].shape[-2] * now["by_col"].shape[-1]
            mean = rows["update"].sum(-2, keepdim=True) / size
            return {}, {"scale": _factored.clip(mean, self.clip_threshold)}
        if "exp_avg_res_row" not in state:
            return {}, {"confidence_col": 1 / now["momentum"] * torch.ones_like(now["by_col"])}
        found = {"row": rows["residual"], "col": sums["residual"]}
        by_row, by_col = _factored.factors(state, found, 1 - self.betas[2], self.eps[1], "exp_avg_res")
        correction = now["confidence"] ** 0.5 / now["momentum"]
        return {"confidence_row": by_row}, {"confidence_col": by_col * correction}

    def update(self, grad, state, param, now):
        """m / sqrt(S), where m is the running mean of u = g / sqrt(V), clipped, and S that of (u - m)^2, factored."""
        m = state["exp_avg"].lerp_(self._clipped(grad, now), 1 - self.betas[0])
        return (m * now["confidence_row"] if "confidence_row" in now else m) * now["confidence_col"]

    def _clipped(self, grad, now):
        return grad * now["by_row"] * now["by_col"] * now["scale"]
