"""The normalisation of SCALE."""

from dataclasses import dataclass, replace

from torch import Tensor

from ...core.contracts import Numbers, ParameterInfo, Rule, Shape, Slot, State
from ...core.errors import check_choice, check_number
from . import _factored
from ._line_norms import check_matrix, inverse_root

__all__ = ["ColumnNorm"]


@dataclass(frozen=True)
class ColumnNorm(Rule):
    """The gradient of every output brought to root mean square 1, no state (Glentis et al. 2025, SCALE, Alg. 1).

    The paper writes weights as [in, out], and normalises columns. Here outputs are the rows of most weights, and the
    columns of those stored transposed and of embeddings, where a row is a token. axis: "auto" finds out which, "rows"
    or "columns" says it. momentum: 0 keeps no state; else an exponential mean of the gradients is normalised, as SCALE
    does in the output layer. The direction has root mean square 1 as signs have, so start from AdamW's learning rate.
    """

    momentum: float = 0.0
    axis: str = "auto"
    looks = 1

    def __post_init__(self) -> None:
        check_number("ColumnNorm", "momentum", self.momentum, 0, 1, open_end=True)
        check_choice("ColumnNorm", "axis", self.axis, ("auto", "rows", "columns"))

    def fit(self, param: ParameterInfo) -> Rule:
        """Return the rule for one parameter, with the axis along which its outputs are numbered."""
        if self.axis != "auto":
            return self
        return replace(self, axis="columns" if param.role == "embedding" else param.partition.axis)

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare the momentum, 4 bytes an element, or nothing; HybridOptError for what is no matrix."""
        check_matrix("ColumnNorm", shape)
        return {"momentum_buffer": Slot(shape)} if self.momentum else {}

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Find sums of squares of rows, "row" [..., rows, 1], and columns, "col" [..., 1, n].

        Args:
            i: 0.
            grad: rows of the gradient, [..., rows, n].
            state: the momentum before this step, if there is one.
            param: not read.
            now: not read.
        """
        buf = state.get("momentum_buffer")
        squares = _factored.sums(grad if buf is None else buf.lerp(grad, 1 - self.momentum))
        return {"row": squares["row"]}, {"col": squares["col"]}

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """Find 1 / RMS of every output, "inverse": [..., m, 1], or [..., 1, n] where outputs are columns.

        Args:
            i: 0.
            rows: sums of squares, "row" [..., m, 1].
            sums: sums of squares, "col" [..., 1, n].
            state: empty.
            now: not read.
        """
        row, col = rows["row"], sums["col"]
        if self.axis == "columns":
            return {}, {"inverse": inverse_root(col / row.shape[-2])}
        return {"inverse": inverse_root(row / col.shape[-1])}, {}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return g, or the momentum, with outputs of root mean square 1; shape of `grad`.

        Args:
            grad: g, [..., rows, n].
            state: the momentum, if there is one; moved in place.
            param: not read.
            now: "inverse", [..., rows, 1] or [..., 1, n].
        """
        buf = state.get("momentum_buffer")
        return (grad if buf is None else buf.lerp_(grad, 1 - self.momentum)) * now["inverse"]
