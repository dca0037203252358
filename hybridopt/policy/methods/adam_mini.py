"""Adam-mini."""

from dataclasses import dataclass

from ...core.contracts import Codec, Store
from ...core.registry import make
from ...parts.rules.adam_mini import AdamMini
from ..routes import Route, place
from ..treatment import Treatment
from ._options import NamedPolicy
from ._rates import FINETUNE, PRETRAIN_128K, beside_adamw

__all__ = ["AdamMiniPolicy"]


@dataclass(frozen=True)
class AdamMiniPolicy(NamedPolicy):
    """Adam-mini (Zhang et al. 2024) on everything: AdamW's momentum, and one second moment for each Hessian block.

    Blocks are the heads of queries and keys, and the output neurons (tokens, for embeddings) of all else; they are
    found in the model, heads and kv_heads replace its own head counts. value_blocks: "neuron", or "whole" for short
    runs (below some 10k steps). Half of AdamW's state; with codec="int8" an eighth. Norms and biases do not decay.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    heads: int | None = None
    kv_heads: int | None = None
    value_blocks: str = "neuron"
    codec: str | Codec = "fp32"
    store: str | Store | None = None
    start_from = beside_adamw(1, "as on all weights", pretrain=PRETRAIN_128K(1e-3), full=FINETUNE(3e-4))

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-full, but for quantized weights, which are frozen."""
        full = AdamMini(self.betas, self.eps, self.heads, self.kv_heads, self.value_blocks)
        return place(Treatment(full=full, codec=make("codecs", self.codec)), norm="full", bias="full")
