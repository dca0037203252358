"""Muon."""

from dataclasses import dataclass

from ...core.contracts import Codec, Store
from ...core.registry import make
from ...parts.rules.adamw import AdamW
from ...parts.rules.muon import Muon
from ..routes import Route
from ..treatment import Treatment
from ._matrices import matrices
from ._options import Places
from ._rates import PRETRAIN_128K, beside_adamw

__all__ = ["MuonPolicy"]


@dataclass(frozen=True)
class MuonPolicy(Places):
    """Muon (Jordan et al. 2024) on the hidden matrices, AdamW on everything else.

    adjust: "match_rms_adamw", with which one learning rate serves both, or "original", which wants a larger one for
    the matrices: lr_scale, on Muon's updates alone. dtype: of the iterations, "auto", "float32" or "bfloat16".
    betas, eps: AdamW's.
    """

    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    adjust: str = "match_rms_adamw"
    dtype: str = "auto"
    lr_scale: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    codec: str | Codec = "fp32"
    store: str | Store | None = None
    adapters = "split"
    start_from = beside_adamw(3, "as in pre-training", pretrain=PRETRAIN_128K(1e-2))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: linear weights, convolutions and adapters by Muon, everything else by AdamW."""
        rule = Muon(self.momentum, self.nesterov, self.ns_steps, self.adjust, dtype=self.dtype)
        body = Treatment(full=rule, codec=make("codecs", self.codec), lr_scale=self.lr_scale)
        return matrices(self, body, AdamW(self.betas, self.eps))
