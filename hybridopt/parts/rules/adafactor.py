"""Adafactor."""

from dataclasses import dataclass

from ...core.contracts import Slot
from ...core.errors import HybridOptError, check_number
from . import _factored

__all__ = ["Adafactor"]


@dataclass(frozen=True)
class Adafactor:
    """A factored second moment and clipped updates, relative to the weights (Shazeer & Stern 2018, Alg. 4 and 5).

    beta1: momentum of the updates, None for none. scale_parameter: multiply by max(eps[1], RMS(param)).
    relative_step: multiply by the paper's min(1e-2, 1 / sqrt(step)), which wants lr=1; weight decay stays
    lr * weight_decay. eps, decay_rate, clip_threshold: as in AdaLomo.
    """

    eps: tuple[float, float] = (1e-30, 1e-3)
    clip_threshold: float = 1.0
    decay_rate: float = -0.8
    beta1: float | None = None
    scale_parameter: bool = True
    relative_step: bool = False
    local = False
    looks = 2

    def __post_init__(self):
        checked = _factored.check("Adafactor", self.eps, self.clip_threshold, self.decay_rate)
        object.__setattr__(self, "eps", checked)
        if self.beta1 is not None:
            check_number("Adafactor", "beta1", self.beta1, 0, 1, open_end=True)
        for name in ("scale_parameter", "relative_step"):
            if not isinstance(getattr(self, name), bool):
                raise HybridOptError(f"Adafactor: {name}={getattr(self, name)!r} is not allowed; give True or False")

    @property
    def reads_param(self) -> bool:
        """Only the scale by the weights does."""
        return self.scale_parameter

    def slots(self, shape):
        """Second moment by row and by column; with beta1 also momentum, 4 bytes an element."""
        momentum = {} if self.beta1 is None else {"exp_avg": Slot(shape)}
        return momentum | _factored.slots(shape)

    def numbers(self, step):
        """The weight of this step's squares, and the relative step size."""
        return {"fresh": step**self.decay_rate, "rate": min(1e-2, step**-0.5) if self.relative_step else 1.0}

    def look(self, i, grad, state, param, now):
        """Squares; then the size of the update and of the weights."""
        return _factored.look(i, grad, param if self.scale_parameter else None, now)

    def settle(self, i, rows, sums, state, now):
        """The second moment; then the step's size, which goes into the factor by column."""
        if i == 0:
            by_row, by_col = _factored.factors(state, rows | sums, now["fresh"], self.eps[0])
            return {"by_row": by_row}, {"by_col": by_col}
        size = _factored.step_size(rows, now, self.clip_threshold, self.eps[1]) * now["rate"]
        return {}, {"by_col": now["by_col"] * size}

    def update(self, grad, state, param, now):
        """rate max(eps, RMS(param)) u / max(1, RMS(u) / clip_threshold), u = g / sqrt(V), or a running mean of it."""
        step = grad * now["by_row"] * now["by_col"]
        return step if self.beta1 is None else state["exp_avg"].lerp_(step, 1 - self.beta1).clone()
