"""FRUGAL."""

from dataclasses import dataclass
from typing import Any

from ...core.contracts import Codec, Density, Rule, Split, StartFrom, Store, computed
from ...core.errors import HybridOptError
from ...core.registry import make, unpack
from ..routes import Route
from ..treatment import Treatment
from ._options import Places
from ._rates import FINETUNE, PRETRAIN, PRETRAIN_128K, beside_adamw

__all__ = ["Frugal"]

SLOW = 0.1  # free_lr_scale of the paper's fine-tuning
RATES = beside_adamw(
    1, "as both parts have steps as long", pretrain=PRETRAIN(3e-3, ends=10), full=FINETUNE(1e-4), lora=FINETUNE(3e-3)
)
RATES_OF_SLOW = beside_adamw(
    3, "as free_lr_scale=0.1 wants", pretrain=PRETRAIN_128K(3e-3), full=FINETUNE(1e-3), lora=FINETUNE(3e-3)
)


@dataclass(frozen=True)
class Frugal(Places):
    """FRUGAL (Zmushko et al. 2024): part of every linear weight by AdamW, the rest by signSGD, chosen anew in turns.

    density: state-full share of the elements, 0 to 1, or a schedule by step. update_gap: steps between two choices.
    split: block, columns, rows, randk, svd, random. order: of blocks, random, ascending, descending, mirror.
    full, free: the two rules. free_lr_scale: 1.0 takes AdamW's rate; the paper fine-tunes with 0.1 and a larger one.
    reset: forget the state at each choice. codec: fp32, bf16, int8.
    embeddings, norms, biases, head, adapters: full, split, free or frozen.
    """

    density: Density = 0.25
    update_gap: int = 200
    split: str | Split = "columns"
    order: str = "random"
    full: str | Rule = "adamw"
    free: str | Rule = "signsgd"
    free_lr_scale: float = 1.0
    lr_scale: float = 1.0
    reset: bool = True
    codec: str | Codec = "fp32"
    store: str | Store | None = None
    adapters = "split"

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", unpack(self.density, "schedules"))
        super().__post_init__()

    @computed
    def start_from(self) -> StartFrom:
        """Return the rates to start from, which are larger where the state-free part is slow."""
        return RATES_OF_SLOW if self.free_lr_scale <= SLOW else RATES

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes: linear weights, convolutions and adapters are split, everything else is state-full."""
        body = Treatment(
            full=make("rules", self.full),
            free=make("rules", self.free),
            split=self._split(),
            codec=make("codecs", self.codec),
            lr_scale=self.lr_scale,
            free_lr_scale=self.free_lr_scale,
            reset=self.reset,
        )
        return self.placed(body)

    def _split(self) -> Split:
        options: dict[str, Any] = {"density": self.density, "update_gap": self.update_gap}
        if self.split == "block":
            options["order"] = self.order
        elif self.order != "random":
            raise HybridOptError(f"order={self.order!r} belongs to split='block', got split={self.split!r}", "frugal")
        if not isinstance(self.split, str):
            if (self.density, self.update_gap) != (type(self).density, type(self).update_gap):
                raise HybridOptError(
                    f"give density and update_gap inside split={self.split!r}, not beside it", "frugal"
                )
            options = {}
        split: Split = make("splits", self.split, **options)
        return split
