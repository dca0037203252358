"""Memory of batches of any size and length, extrapolated from three measured points."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Cost", "LengthCosts"]


@dataclass(frozen=True)
class Cost:
    """Bytes of a batch of b rows of n tokens: linear * b * n + quadratic * b * n**2.

    Args:
        linear: bytes a token.
        quadratic: bytes a token and token, such as those of attention scores.
    """

    linear: float
    quadratic: float = 0.0

    def __call__(self, batch: int, length: int) -> int:
        """Return the bytes of a batch of `batch` rows of `length` tokens."""
        return round(batch * length * (self.linear + self.quadratic * length))

    @staticmethod
    def measured(bytes_at: Callable[[int, int], float], longest: int) -> "Cost":
        """Fit a Cost to bytes measured at (batch, length) = (1, longest), (1, longest / 2) and (2, longest / 2).

        It is too low at none of the three. Bytes that grow neither with the batch nor with the length (tables of
        positions, say) count as if they did.

        Args:
            bytes_at: measures a batch; called with (batch, length).
            longest: tokens of the longest row.
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
    """Peak bytes of the two halves of an Addax step, by batch size and length.

    A backward pass is counted as the activations that autograd saved for it, and the most that a forward pass has
    alive at once. With gradient checkpointing: the inputs of the blocks, and the greater of that forward pass and
    twice the activations of one block (computed again, and their gradients).

    Args:
        weights: bytes of all parameters, with quantization constants.
        largest: bytes of the largest trained tensor, for its gradient or its perturbed copy.
        trained: bytes of all trained tensors, for their gradients.
        gradient: activations of a backward pass, with the model's present setting of gradient checkpointing.
        probe: activations of a forward pass without gradients.
        checkpointed: activations of a backward pass with gradient checkpointing; None: the model cannot do it.
        longest: tokens of the longest row, up to which was measured.
        fused: each gradient is used and freed within the backward pass.
        accumulated: a step has several micro-batches, so that gradients are alive all the time.
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
        """Return the bytes of the gradients that are alive at once."""
        return self.largest if self.fused and not self.accumulated else self.trained

    def first_order(self, batch: int, length: int) -> int:
        """Return the peak bytes of a backward pass of `batch` rows of `length` tokens, weights included."""
        return self.weights + self.gradients + self.gradient(batch, length)

    def with_checkpointing(self, batch: int, length: int) -> int | None:
        """Return what `first_order` would with gradient checkpointing; None if the model cannot do it."""
        return None if self.checkpointed is None else self.weights + self.gradients + self.checkpointed(batch, length)

    def zeroth_order(self, batch: int, length: int) -> int:
        """Return the peak bytes of a probe of `batch` rows of `length` tokens, one weight perturbed at a time."""
        return self.weights + self.largest + self.accumulated * self.trained + self.probe(batch, length)
