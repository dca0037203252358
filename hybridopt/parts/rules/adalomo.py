"""AdaLomo."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State
from . import _factored

__all__ = ["AdaLomo"]


@dataclass(frozen=True)
class AdaLomo(Rule):
    """LOMO with a factored second moment and updates normalised matrix by matrix (Lv et al. 2023, Alg. 1).

    eps: added to the squares; the least size that a weight counts with. decay_rate: the second moment's share of the
    past is 1 - step ** decay_rate. clip_threshold: the largest root mean square of an update before it is multiplied
    by that of the weights. So lr is relative to the weights; the authors advise 5e-4 to 1e-3. Their code also decays
    the weights by lr * max(eps[1], RMS(param)) * weight_decay; here decay is lr * weight_decay, as everywhere.
    """

    eps: tuple[float, float] = (1e-30, 1e-3)
    clip_threshold: float = 1.0
    decay_rate: float = -0.8
    reads_param = True
    looks = 2

    def __post_init__(self) -> None:
        checked = _factored.check("AdaLomo", self.eps, self.clip_threshold, self.decay_rate)
        object.__setattr__(self, "eps", checked)

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare the second moment by row and by column: 4 bytes a row and 4 a column."""
        return _factored.slots(shape)

    def numbers(self, step: int) -> dict[str, float]:
        """Return the weight of this step's squares, 1 in the first."""
        return {"fresh": step**self.decay_rate}

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Find squares; then the size of the update and of the weights.

        Args:
            i: round, 0 or 1.
            grad: rows of the gradient, [..., rows, n].
            state: not read.
            param: these rows of the weight.
            now: in round 1 "by_col", [..., 1, n].
        """
        return _factored.look(i, grad, param, now)

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """Move the second moment; then put the size of the step into the factor by column.

        Args:
            i: round, 0 or 1.
            rows: squares of the rows, "row"; then "update" and "param", sizes of the rows: [..., m, 1].
            sums: squares of the columns, "col" [..., 1, n]; then empty.
            state: means of rows [..., m] and columns [..., n], moved in place.
            now: "fresh"; in round 1 also "by_row" and "by_col".
        """
        if i == 0:
            by_row, by_col = _factored.factors(state, rows | sums, now["fresh"], self.eps[0])
            return {"by_row": by_row}, {"by_col": by_col}
        return {}, {"by_col": now["by_col"] * _factored.step_size(rows, now, self.clip_threshold, self.eps[1])}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return max(eps, RMS(param)) u / max(1, RMS(u) / clip_threshold), where u = g / sqrt(V).

        Args:
            grad: g, [..., rows, n].
            state: not read.
            param: not read here.
            now: factors "by_row", [..., rows, 1], and "by_col", [..., 1, n].
        """
        return grad * now["by_row"] * now["by_col"]
