"""What a rule is asked for: all that one must know to write a fast rule.

A rule is a frozen dataclass (its fields are its options) that subclasses `Rule`. This one is complete, and as fast as
hybridopt's own::

    from dataclasses import dataclass

    from hybridopt import Treatment
    from hybridopt.core.contracts import Rule, Slot

    @dataclass(frozen=True)
    class Heavyball(Rule):
        momentum: float = 0.9
        local = True  # element by element: may be cut into slices, sharded, stacked
        looks = 0

        def slots(self, shape):
            return {"velocity": Slot(shape)}  # float32 [*shape], zeros at first: 4 bytes an element

        def numbers(self, step):
            return {"correction": 1 - self.momentum**step}

        def update(self, grad, state, param, now):
            velocity = state["velocity"].lerp_(grad, 1 - self.momentum)  # in place
            return velocity / now["correction"]  # a new tensor: it is multiplied by the learning rate in place

    treatment = Treatment(full=Heavyball(0.95))

A rule that must know something of its whole matrix, here its norm, finds it out in rounds, a slice of rows at a time::

    @dataclass(frozen=True)
    class UnitNorm(Rule):
        looks = 1

        def look(self, i, grad, state, param, now):
            return {}, {"squares": grad.square().sum((-2, -1), keepdim=True)}  # rows: none; sums: [..., 1, 1]

        def settle(self, i, rows, sums, state, now):
            return {}, {"inverse": sums["squares"].rsqrt()}  # rows: none; for all rows: [..., 1, 1]

        def update(self, grad, state, param, now):
            return grad * now["inverse"]

Four promises make a rule fast, and everything else is done by others:

- Pure tensor code, without `.item()` or branches on values: the whole update is compiled in one piece.
- `local = True` where every element goes by itself: slices bound the temporaries, shards are updated where they lie.
- Where it does not, only the last two dimensions are reduced: small parameters of one shape are updated as a stack.
- No random generator: what is drawn is a function of now["key"], the parameter's own number of 63 bits, an int or an
  int64 tensor, [] or, of a stack, [n] (see `core.numerics.normal`).
"""

from abc import abstractmethod
from typing import Protocol

from torch import Tensor

from ..errors import HybridOptError
from .parameter import ParameterInfo
from .values import Numbers, Shape, Slot, State

__all__ = ["Rule"]


class Rule(Protocol):
    """Gradient to direction, pure tensor code for any leading dimensions; without slots it is state-free.

    A local rule is given tensors of any shape, or slices of them. Any other is given matrices `[..., m, n]` (a vector
    as [1, n]) and reduces their last two dimensions only. What it must know of the whole matrix it asks for in `looks`
    rounds: `look` sees one slice of rows after the other, `settle` sums up, and `update` sees the slices again.
    """

    local: bool = False
    """Does it work element by element? Then it may run on a shard, or on any slice."""

    reads_param: bool = False
    """Does the direction depend on the weight? Else `param` is None."""

    looks: int | None = None
    """Rounds of `look` and `settle` before `update`; 0 for a local rule, None if it needs the matrix in one piece."""

    idle: bool = False
    """Is every direction zero? Then a parameter that is all state-free is left alone, weight decay included."""

    products: bool = False
    """Does its time go into matrix products? Then compiling gains nothing, and is not done."""

    proportional: bool = False
    """Is the direction proportional to the gradients, so that steps are as long as these say?"""

    def fit(self, param: ParameterInfo) -> "Rule":
        """Return the rule for one parameter, by its role and Hessian blocks; HybridOptError for what does not fit."""
        return self

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Return the state for a gradient of `shape`, by name; HybridOptError for a shape that it cannot take.

        A slot of the gradient's shape is cut into slices with it, and moves in `update`. Any other, or one that is
        `settled`, is whole, and moves in `settle`. With looks=None all move in `update`.
        """
        return {}

    def numbers(self, step: int) -> dict[str, float]:
        """Return what depends on the age of the state alone (`step`, from 1), such as bias corrections."""
        return {}

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Look at a slice of rows: return what is found by name, [..., rows, 1] to be joined, and sums to be added.

        Args:
            i: round, from 0.
            grad: rows of the gradient, [..., rows, n].
            state: elementwise slots cut to these rows, to be read; they move in `update`.
            param: these rows of the weight if `reads_param`, else None.
            now: `numbers`, "key", and what earlier rounds have returned, rows cut to the slice.
        """
        raise _missing(self, "look")

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """End a round: move the state that is no matrix; return tensors by row, [..., m, 1], and tensors for all rows.

        Both are found in `now` from here on, the former cut to the slice.

        Args:
            i: round, from 0.
            rows: what `look` found by row, joined: [..., m, 1] by name.
            sums: what `look` found else, added up.
            state: slots that are not elementwise, to be changed in place.
            now: `numbers`, "key", and what earlier rounds have returned.
        """
        raise _missing(self, "settle")

    @abstractmethod
    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Move the elementwise state in place; return the direction, a tensor of its own in the shape of `grad`.

        Args:
            grad: gradient, or rows of it, in float32 (float64 for float64 weights); not to be changed.
            state: slots by name, in the dtype of `grad`.
            param: the weight in the dtype of `grad` if `reads_param`, else None.
            now: `numbers`, "key", and what `settle` has returned. Numbers are floats, or tensors of shape [] where
                the update is compiled.
        """


def _missing(rule: Rule, method: str) -> HybridOptError:
    name = type(rule).__name__
    return HybridOptError(f"{name} has looks={rule.looks} and lacks {method}(); write it, or say looks = None")
