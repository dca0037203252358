"""AdaLomo."""

from dataclasses import dataclass

from . import _factored

__all__ = ["AdaLomo"]


@dataclass(frozen=True)
class AdaLomo:
    """LOMO with a factored second moment and updates normalised matrix by matrix (Lv et al. 2023, Alg. 1).

    eps: added to the squares; the least size that a weight counts with. decay_rate: the second moment's share of the
    past is 1 - step ** decay_rate. clip_threshold: the largest root mean square of an update before it is multiplied
    by that of the weights. So lr is relative to the weights; the authors advise 5e-4 to 1e-3. Their code also decays
    the weights by lr * max(eps[1], RMS(param)) * weight_decay; here decay is lr * weight_decay, as everywhere.
    """

    eps: tuple[float, float] = (1e-30, 1e-3)
    clip_threshold: float = 1.0
    decay_rate: float = -0.8
    local = False
    reads_param = True
    looks = 2

    def __post_init__(self):
        checked = _factored.check("AdaLomo", self.eps, self.clip_threshold, self.decay_rate)
        object.__setattr__(self, "eps", checked)

    def slots(self, shape):
        """Second moment by row and by column: 4 bytes a row and 4 a column."""
        return _factored.slots(shape)

    def numbers(self, step):
        """The weight of this step's squares, 1 in the first."""
        return {"fresh": step**self.decay_rate}

    def look(self, i, grad, state, param, now):
        """Squares; then the size of the update and of the weights."""
        return _factored.look(i, grad, param, now)

    def settle(self, i, rows, sums, state, now):
        """The second moment; then the step's size, which goes into the factor by column."""
        if i == 0:
            by_row, by_col = _factored.factors(state, rows | sums, now["fresh"], self.eps[0])
            return {"by_row": by_row}, {"by_col": by_col}
        return {}, {"by_col": now["by_col"] * _factored.step_size(rows, now, self.clip_threshold, self.eps[1])}

    def update(self, grad, state, param, now):
        """max(eps, RMS(param)) u / max(1, RMS(u) / clip_threshold), where u = g / sqrt(V)."""
        return grad * now["by_row"] * now["by_col"]
