"""Gradient clipping by norm, for every release."""

import math
from dataclasses import dataclass

from torch import Tensor

from ...core.errors import HybridOptError, check_choice, check_number
from ...model.fsdp.sharded_tensors import local

__all__ = ["MODES", "Clip"]

MODES = ("global", "previous", "tensor")
EPS = 1e-6  # torch.nn.utils.clip_grad_norm_'s


@dataclass(frozen=True)
class Clip:
    """Scale gradients to a 2-norm of at most `limit` (Pascanu et al. 2013, Alg. 1); None and infinity do nothing.

    Args:
        limit: the largest norm. Infinity clips nothing, but has the norm worked out.
        mode: whose norm counts: "global", of all gradients together; "tensor", of each by itself; "previous", of all
            gradients one step ago, which is known before the first gradient is (the first step goes tensor by tensor).
    """

    limit: float | None = None
    mode: str = "global"

    def __post_init__(self):
        check_choice("HybridOptimizer", "clip_mode", self.mode, MODES)
        if self.limit is not None and self.limit != math.inf:
            check_number("HybridOptimizer", "clip", self.limit, 0)
            if self.limit == 0:
                raise HybridOptError("HybridOptimizer: clip=0 would stop all training; give a norm > 0, or None")

    @property
    def mode_in_force(self) -> str | None:
        """Return the mode; None where nothing is clipped."""
        return None if self.limit in (None, math.inf) else self.mode

    def check(self, gradients: bool) -> None:
        """Raise HybridOptError where there is nothing to clip; `gradients`: does any parameter take gradients?"""
        if self.mode_in_force and not gradients:
            raise HybridOptError(
                f"clip={self.limit} limits gradients of backward passes, and this policy takes none; leave it "
                "out, and limit projected gradients by the policy's clip (mezo, qzo; SPSA(clip=...) in own policies)"
            )

    def scale_(self, grad: Tensor, norm: Tensor, whole: Tensor | float | None) -> None:
        """Clip a gradient in place.

        Args:
            grad: the gradient; of a sharded one, this rank's rows are scaled.
            norm: its own 2-norm, shape [].
            whole: the norm of all gradients; None where it is not known, then its own counts.
        """
        if self.limit is None or self.mode_in_force is None:
            return
        size = norm if self.mode == "tensor" or whole is None else whole
        factor = self.limit / (size + EPS)
        if (not isinstance(factor, Tensor) or factor.is_cpu) and factor >= 1:
            return  # the host knows, and neither reads nor writes the gradient once more
        local(grad).mul_(factor.clamp(max=1).to(grad.device) if isinstance(factor, Tensor) else factor)

    def remember(self, groups: list[dict], norm: Tensor | None) -> None:
        """Write this step's norm into the param groups, so that it is saved, where the next step clips by it."""
        if self.mode_in_force == "previous" and norm is not None and math.isfinite(value := float(norm)):
            for group in groups:
                group["grad_norm"] = value
