"""The gradient's noise scale, measured by the way: by the norms of a micro-batch and of several together."""

from collections.abc import Callable

from ...core.errors import HybridOptError
from ...policy.batch_rates import gradient_noise

__all__ = ["NoiseWatch"]

STEPS = 50  # of a run, in which norms are looked at
FEWEST = 10  # whose mean is told


class NoiseWatch:
    """Takes the norms of gradients while micro-batches of a step add up, in some steps of a run.

    The sum is looked at after the first micro-batch and after the last but one, before anything is clipped; so a step
    needs three or more. McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1.

    Args:
        norm: returns the 2-norm of all gradients that are there; None where there are none.
    """

    def __init__(self, norm: Callable[[], float | None]):
        self._norm = norm
        self._done = self._every = 0
        self._batch = self._passes = 1
        self._squares: dict[int, list[float]] = {}
        self._first: float | None = None

    def begin(self, batch: int, passes: int, steps: int) -> None:
        """Take note of a run.

        Args:
            batch: examples of a micro-batch.
            passes: micro-batches of a step.
            steps: of the run.
        """
        self._batch, self._passes, self._every = batch, passes, max(1, steps // STEPS)
        self._squares = {batch: [], batch * (passes - 1): []}

    def passed(self, step: int) -> None:
        """Note that a micro-batch that is not the last of its step has added its gradient.

        step: number of the optimizer step that it belongs to.
        """
        self._done += 1
        if self._passes < 3 or step % self._every or self._done not in (1, self._passes - 1):
            return
        norm = self._norm()
        if norm is None or norm != norm or norm == float("inf"):
            return
        square = (norm * self._passes / self._done) ** 2  # every pass adds its mean gradient over the passes
        if self._done == 1:
            self._first = square
        elif self._first is not None:
            self._squares[self._batch].append(self._first)
            self._squares[self._batch * self._done].append(square)

    def stepped(self) -> None:
        """Note that a step is made."""
        self._done, self._first = 0, None

    @property
    def steps(self) -> int:
        """Return in how many steps norms were taken."""
        return len(self._squares.get(self._batch, ()))

    def found(self) -> float | None:
        """Return the noise scale in examples; None where it was not to be measured, or is none."""
        if self.steps < FEWEST:
            return None
        try:
            return gradient_noise({batch: sum(each) / len(each) for batch, each in self._squares.items()})
        except HybridOptError:
            return None
