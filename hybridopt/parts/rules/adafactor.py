"""Adafactor."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State, computed
from ...core.errors import HybridOptError, check_number
from . import _factored

__all__ = ["Adafactor"]


@dataclass(frozen=True)
class Adafactor(Rule):
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
    looks = 2

    def __post_init__(self) -> None:
        checked = _factored.check("Adafactor", self.eps, self.clip_threshold, self.decay_rate)
        object.__setattr__(self, "eps", checked)
        if self.beta1 is not None:
            check_number("Adafactor", "beta1", self.beta1, 0, 1, open_end=True)
        for name, value in {"scale_parameter": self.scale_parameter, "relative_step": self.relative_step}.items():
            if not isinstance(value, bool):
                raise HybridOptError(f"{name}={value!r} is not allowed; give True or False", "Adafactor")

    @computed
    def reads_param(self) -> bool:
        """Return whether updates are scaled by the weights."""
        return self.scale_parameter

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare the second moment by row and by column; with beta1 also momentum, 4 bytes an element."""
        momentum = {} if self.beta1 is None else {"exp_avg": Slot(shape)}
        return momentum | _factored.slots(shape)

    def numbers(self, step: int) -> dict[str, float]:
        """Return the weight of this step's squares, and the relative step size."""
        return {"fresh": step**self.decay_rate, "rate": min(1e-2, step**-0.5) if self.relative_step else 1.0}

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Find squares; then the size of the update and of the weights.

        Args:
            i: round, 0 or 1.
            grad: rows of the gradient, [..., rows, n].
            state: not read.
            param: these rows of the weight; None without scale_parameter.
            now: in round 1 "by_col", [..., 1, n].
        """
        return _factored.look(i, grad, param if self.scale_parameter else None, now)

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """Move the second moment; then put the step's size into the factor by column.

        Args:
            i: round, 0 or 1.
            rows: "row", squares of the rows; then "update" and "param", their sizes: [..., m, 1].
            sums: "col", squares of the columns, [..., 1, n]; then empty.
            state: means of rows [..., m] and of columns [..., n], moved in place.
            now: "fresh", "rate"; in round 1 also the factors "by_row" and "by_col".
        """
        if i == 0:
            by_row, by_col = _factored.factors(state, rows | sums, now["fresh"], self.eps[0])
            return {"by_row": by_row}, {"by_col": by_col}
        size = _factored.step_size(rows, now, self.clip_threshold, self.eps[1]) * now["rate"]
        return {}, {"by_col": now["by_col"] * size}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return rate max(eps, RMS(param)) u / max(1, RMS(u) / clip_threshold), u = g / sqrt(V), or its running mean.

        Args:
            grad: g, [..., rows, n].
            state: with beta1 the running mean, "exp_avg", shape of `grad`; moved in place.
            param: not read here.
            now: factors "by_row", [..., rows, 1], and "by_col", [..., 1, n].
        """
        step = grad * now["by_row"] * now["by_col"]
        return step if self.beta1 is None else state["exp_avg"].lerp_(step, 1 - self.beta1).clone()
