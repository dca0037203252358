"""SubZero's gradient: along random directions of low rank."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Draw, Noise, ProbeScheme, Shape, Slot, Source, State, computed, stream
from ...core.errors import check_count
from ...core.numerics.directions import Direction, values
from ._along import elementwise, over
from ._check import check

__all__ = ["SubZero"]


@dataclass(frozen=True)
class SubZero(Source):
    """SubZero (Yu et al. 2024, Alg. 1 and 2): SPSA along U Z V^T, with Z of r x r normal numbers.

    U [m, r] and V [n, r] are orthonormal bases (of normal matrices by QR), drawn anew every `update_gap` steps, and
    directions are scaled by sqrt(m n) / r, so that they are as long as MeZO's on average and its learning rates fit.
    Matrices of which a side has less than 4 `rank`, such as LoRA's, are seen as nearly square first; vectors get
    elementwise normal directions. The bases are kept: 4 r (m + n) bytes a matrix. Their products depend on the last
    bits of the device's matrix multiplication, so a run is not replayed from its scalars. eps, samples: as of SPSA.
    """

    rank: int = 24
    update_gap: int = 1000
    eps: float = 1e-3
    samples: int = 1
    kind = "gaussian"

    def __post_init__(self) -> None:
        check("SubZero", self.eps, self.samples)
        check_count("SubZero", "rank", self.rank, 1, 2**31)
        check_count("SubZero", "update_gap", self.update_gap, 1, 2**31)

    @computed
    def scheme(self) -> ProbeScheme:
        """Return two losses a direction."""
        return ProbeScheme(self.samples)

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare both bases of a matrix, "u" [m, r] and "v" [n, r]."""
        sides = self._sides(shape)
        return {} if sides is None else {side: Slot((n, min(self.rank, *sides))) for side, n in zip("uv", sides)}  # noqa: B905

    def sample(self, basis: State, draw: Draw) -> None:
        """Take the Q factors of normal matrices."""
        for side, out in basis.items():
            normal = Direction(stream(draw.seed, draw.name, side), draw.window, kind="gaussian")
            out.copy_(torch.linalg.qr(values(normal, 0, out.numel(), out.device).view(out.shape))[0])

    def noise(self, draw: Draw, shape: Shape, index: int, basis: State) -> Noise:
        """Return a direction of low rank; an elementwise one for vectors.

        Args:
            draw: the random choices of this parameter in this step.
            shape: not read.
            index: which direction of the step.
            basis: "u" and "v"; empty for vectors.
        """
        core = elementwise(draw, index, "gaussian")
        return LowRank(basis["u"], basis["v"], core) if basis else core

    def weights(self, slopes: Sequence[float]) -> tuple[float, ...]:
        """Return the projected gradients over their number."""
        return over(slopes, self.eps)

    def _sides(self, shape: Shape) -> tuple[int, int] | None:
        """Return the sizes of the matrix as which a parameter is seen; None for vectors."""
        if len(shape) < 2 or 0 in shape:
            return None
        sides = (math.prod(shape[:-1]), shape[-1])
        return sides if min(sides) >= 4 * self.rank else _nearly_square(math.prod(shape))


@dataclass(frozen=True, eq=False)
class LowRank(Noise):
    """A direction sqrt(m n) / r U Z V^T, worked out row by row."""

    u: Tensor
    v: Tensor
    core: Direction

    def drawn(self, numel: int) -> tuple[Direction, int]:
        """Return the core Z and its r * r elements, however many the parameter has."""
        return self.core, self.u.shape[1] ** 2

    def values(self, start: int, count: int, device: torch.device) -> Tensor:
        """Work out the rows that hold a piece, and cut them to it: float32 [count].

        Args:
            start: position of the first element in the flattened parameter.
            count: elements.
            device: of the bases.
        """
        (m, r), n = self.u.shape, len(self.v)
        core = values(self.core, 0, r * r, device).view(r, r).mul_(math.sqrt(m * n) / r)
        first, last = start // n, -(-(start + count) // n)
        rows = self.u[first:last] @ (core @ self.v.T)
        return rows.flatten()[start - first * n :][:count]


def _nearly_square(total: int) -> tuple[int, int]:
    small = next(n for n in range(math.isqrt(total), 0, -1) if total % n == 0)
    return total // small, small
