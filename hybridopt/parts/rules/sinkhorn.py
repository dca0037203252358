"""The normalisation of SinkGD."""

from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State, computed, found
from ...core.errors import check_count
from ._factored import down_the_columns
from ._line_norms import check_matrix, inverse_root

__all__ = ["Sinkhorn"]


@dataclass(frozen=True)
class Sinkhorn(Rule):
    """Rows and columns of the gradient brought to root mean square 1 in turns, no state (Scetbon et al. 2025, Alg. 3).

    rounds: L of the paper; each reads the gradient once, and what it finds is a factor by row and one by column, so
    that nothing of the gradient's size is made. The direction has root mean square 1 as signs have (of a vector it is
    the signs), so start from AdamW's learning rate. Rows and columns of zeros stay zeros.
    """

    rounds: int = 5

    def __post_init__(self) -> None:
        check_count("Sinkhorn", "rounds", self.rounds, 1, 100)

    @computed
    def looks(self) -> int | None:
        """Return the rounds: each looks at the whole gradient."""
        return self.rounds

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare no state; HybridOptError for what is no matrix."""
        check_matrix("Sinkhorn", shape)
        return {}

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Bring the rows to size 1: "by_row", [..., rows, 1]; sum the squares that the columns have then, "col".

        Args:
            i: round, from 0.
            grad: rows of the gradient, [..., rows, n].
            state: empty.
            param: not read.
            now: after round 0 the factor by column so far, "by_col" [..., 1, n].
        """
        scaled = grad * found(now, "by_col") if i else grad
        by_row = inverse_root(scaled.square().mean(-1, keepdim=True))
        return {"by_row": by_row}, {"col": down_the_columns((grad * by_row).square())}

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """Bring the columns to size 1: "by_col", [..., 1, n].

        Args:
            i: round, from 0.
            rows: factors by row, "by_row" [..., m, 1].
            sums: squares of the columns, "col" [..., 1, n].
            state: empty.
            now: not read.
        """
        return {"by_row": rows["by_row"]}, {"by_col": inverse_root(sums["col"] / rows["by_row"].shape[-2])}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return diag(r) g diag(c), shape of `grad`.

        Args:
            grad: g, [..., rows, n].
            state: empty.
            param: not read.
            now: r, "by_row" [..., rows, 1], and c, "by_col" [..., 1, n].
        """
        return grad * now["by_row"] * now["by_col"]
