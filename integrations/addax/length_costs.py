"""What batches of any size and length cost in memory, from a few measured points."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Cost", "LengthCosts"]


@dataclass(frozen=True)
class Cost:
    """Bytes of a batch of b rows of n tokens: linear * b * n + quadratic * b * n**2."""

    linear: float
    quadratic: float = 0.0

    def __call__(self, batch: int, length: int) -> int:
        """The bytes."""
        return round(batch * length * (self.linear + self.quadratic * length))

    @staticmethod
    def measured(bytes_at: Callable[[int, int], float], longest: int) -> "Cost":
        """Measured at (batch, length) = (1, longest), (1, half of it), (2, half of it), and at none of them too low.

        What does not grow with the batch or the length (tables of positions, say) counts as if it did.
        """
        half = max(1, longest // 2)
        points = {at: bytes_at(*at) for at in ((1, half), (1, longest), (2, half))}
        low, high = points[1, half] / half, points[1, longest] / longest
        quadratic = (high - low) / (longest - half) if longest > half and high > low else 0.0
        quadratic = min(quadratic, high / longest)
        cost = Cost(high - quadratic * longest, quadratic)
        short = max(size / (b * n * (cost.linear + cost.quadratic * n) or 1) for (b, n), size in points.items())
        return Cost(cost.linear * short, cost.quadratic * short)


@dataclass(frozen=True)
class LengthCosts:
    """All that training takes, in bytes.

    weights: of all parameters, with quantization constants. largest, trained: the largest trained tensor, and all of
    them, for their gradients or perturbed copies. gradient: what a backward pass needs at most beside these, as the
    model is now; checkpointed: the same with gradient checkpointing, None where the model cannot do it. probe: of a
    forward pass without gradients. longest: tokens of the longest row, up to which was measured. fused: each gradient
    is used and freed at once; accumulated: several micro-batches a step, so that gradients are alive all the time.

    A backward pass needs what was saved for it, and beside that about what a forward pass has alive at once; with
    checkpointing the inputs of blocks, and the greater of that and one block, computed again, with its gradients.
    """

    weights: int
    largest: int
    trained: int
    gradient: Cost
    probe: Cost
    checkpointed: Cost | None
    longest: int
    fused: bool = True
    accumulated: bool = False

    @property
    def gradients(self) -> int:
        """Bytes of the gradients that are alive at once."""
        return self.largest if self.fused and not self.accumulated else self.trained

    def first_order(self, batch: int, length: int) -> int:
        """Bytes of a batch's gradient, with all that is there besides."""
        return self.weights + self.gradients + self.gradient(batch, length)

    def with_checkpointing(self, batch: int, length: int) -> int | None:
        """The same with gradient checkpointing."""
        return self.checkpointed and self.weights + self.gradients + self.checkpointed(batch, length)

    def zeroth_order(self, batch: int, length: int) -> int:
        """Bytes of a batch's probe, with weights perturbed one by one."""
        return self.weights + self.largest + self.accumulated * self.trained + self.probe(batch, length)
