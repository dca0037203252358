"""The whitening of SWAN."""

import math
from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import Numbers, Rule, Shape, Slot, State
from ...core.errors import check_choice
from . import _newton_schulz
from ._line_norms import check_matrix, inverse_root

__all__ = ["Whiten"]


@dataclass(frozen=True)
class Whiten(Rule):
    """Rows of the gradient brought to one size, then its singular values near one, no state (Ma et al. 2024, SWAN).

    rows: "rms", over their root mean square; "standard", minus their mean and over their deviation, as in the paper
    (a row of one entry, without any, as "rms"); or "none", which leaves Muon without momentum. Then (G G')^-1/2 G by
    `ns_steps` Newton-Schulz iterations (a vector over its norm), times sqrt(max(m, n)): root mean square about 1 where
    the gradient has full rank, as signs have, so start from AdamW's learning rate. dtype, eps: of the iterations, as
    Muon's. Rows and columns of zeros stay zeros, but for the columns under "standard".
    """

    rows: str = "rms"
    ns_steps: int = 5
    eps: float = 1e-7
    dtype: str = "auto"
    looks = None  # the iterations need the matrix in one piece
    products = True

    def __post_init__(self) -> None:
        check_choice("Whiten", "rows", self.rows, ("rms", "standard", "none"))
        _newton_schulz.check("Whiten", self.ns_steps, self.eps, self.dtype)

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare no state; HybridOptError for what is no matrix."""
        check_matrix("Whiten", shape)
        return {}

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return the whitened gradient times sqrt(max(m, n)), shape of `grad`.

        Args:
            grad: the whole matrix, [..., m, n].
            state: empty.
            param: not read.
            now: not read.
        """
        steps = self.ns_steps if min(grad.shape[-2:]) > 1 else 0  # else one singular value, and it is known
        out = _newton_schulz.orthogonal(self._normalised(grad), steps, self.eps, self.dtype)
        return out.to(grad.dtype) * math.sqrt(max(grad.shape[-2:]))

    def _normalised(self, x: Tensor) -> Tensor:
        if self.rows == "none":
            return x
        if self.rows == "standard" and x.shape[-1] > 1:
            x = x - x.mean(-1, keepdim=True)
        return x * inverse_root(x.square().mean(-1, keepdim=True))
