"""What a rule is asked for."""

from typing import Protocol

from torch import Tensor

from .values import Numbers, Shape, Slot, State

__all__ = ["Rule"]


class Rule(Protocol):
    """Gradient to direction, pure tensor code for any leading dimensions; without slots it is state-free.

    A local rule works element by element on any shape. Any other is given matrices `[..., m, n]` (a vector as [1, n])
    and reduces their last two dimensions only. What it must know of the whole matrix it asks for in `looks` rounds,
    so that no temporary need be larger than a slice of rows: `look` sees one slice after the other, `settle` sums up.
    A rule with `looks = None` needs the matrix in one piece.
    """

    local: bool  # elementwise: may run on a shard or on any slice
    reads_param: bool  # does the direction depend on the weight?
    looks: int | None  # 0 for a local rule

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """The state for a gradient of this shape; HybridOptError for a shape that it cannot take."""

    def numbers(self, step: int) -> dict[str, float]:
        """What depends on the step alone (from 1), such as bias corrections."""

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Round `i` on a slice of rows: [..., rows, 1] by name, to be joined, and sums over the rows, to be added.

        The elementwise `state` is there to be read; it moves in `update`.
        """

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """The joined rows and sums of round `i`: change the state that is no matrix; return rows and the rest.

        Both are added to `now` of what follows, the rows cut to the slice.
        """

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Change the elementwise `state` in place and return the direction, shape of `grad`, a tensor of its own."""
