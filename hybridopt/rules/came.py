"""CAME."""

from dataclasses import dataclass

from ..base import Slot
from ..errors import HybridOptError, check_number
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
    looks = None  # the residual needs the momentum

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

    def update(self, grad, state, param, now):
        """m / sqrt(S), where m is the running mean of u = g / sqrt(V), clipped, and S that of (u - m)^2, factored."""
        b1, b2, b3 = self.betas
        by_row, by_col = _factored.factors(state, _factored.sums(grad), 1 - b2, self.eps[0])
        step = grad * by_row * (by_col * now["second"] ** 0.5)
        step = step * _factored.clip(step.square().mean((-2, -1), keepdim=True), self.clip_threshold)
        m = state["exp_avg"].lerp_(step, 1 - b1)
        if "exp_avg_res_row" not in state:
            return m / now["momentum"]
        by_row, by_col = _factored.factors(state, _factored.sums(step - m), 1 - b3, self.eps[1], "exp_avg_res")
        return m * by_row * (by_col * (now["confidence"] ** 0.5 / now["momentum"]))
