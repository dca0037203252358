"""BAdam."""

from dataclasses import dataclass, replace

from ...core.contracts import Codec, Density, Rule
from ...core.errors import check_choice
from ...core.registry import make, unpack
from ...parts.rules.no_update import NoUpdate
from ...parts.splits.block import Block
from ...parts.splits.whole import Whole
from ..routes import PLACES, Route
from ..treatment import Treatment
from ._options import NamedPolicy
from ._rates import FINETUNE, PRETRAIN_128K, beside_adamw

__all__ = ["BAdam"]


@dataclass(frozen=True)
class BAdam(NamedPolicy):
    """BAdam (Luo et al. 2024): Adam on one transformer layer at a time, all others stand still.

    blocks: layers trained at a time; None lets `density`, a share of the elements, decide. update_gap: the paper's K,
    steps before the next layer's turn. Gradients of layers that stand still are dropped as the backward pass makes
    them. What lies outside the numbered layers: the embeddings are frozen, as in the paper; the rest (final norm, and
    the head, which is new in fine-tuning) is trained all the time.
    """

    density: Density = 0.25
    update_gap: int = 100
    blocks: int | None = 1
    order: str = "random"
    full: str | Rule = "adamw"
    codec: str | Codec = "fp32"
    embeddings: str = "frozen"
    head: str = "full"
    start_from = beside_adamw(3, "as on all weights", pretrain=PRETRAIN_128K(1e-3), full=FINETUNE(3e-4))

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", unpack(self.density, "schedules"))
        super().__post_init__()

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: layers take turns, the rest is state-full, embeddings where the option says."""
        body = Treatment(
            full=make("rules", self.full),
            free=NoUpdate(),
            split=Block(self.density, self.update_gap, self.order, "layer", self.blocks),
            codec=make("codecs", self.codec),
        )
        whole = replace(body, split=Whole())
        uses = {"full": whole, "split": body, "frozen": None}
        for option, where in {"embeddings": self.embeddings, "head": self.head}.items():
            check_choice("badam", option, where, set(PLACES) - {"free"})
        layers = {"name": "*.[0-9]*.*|[0-9]*.*"}
        return (
            Route(None, role="quantized"),
            Route(uses[self.embeddings], role="embedding"),
            Route(uses[self.head], role="head"),
            Route(replace(body, weight_decay=0.0), role="norm|bias", **layers),
            Route(body, **layers),
            Route(replace(whole, weight_decay=0.0), role="norm|bias"),
            Route(whole),
        )
