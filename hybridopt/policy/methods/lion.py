"""Lion."""

from dataclasses import dataclass
from functools import cached_property

from ...core.contracts import Codec
from ...core.registry import make
from ...parts.rules.lion import Lion
from ..routes import place, places
from ..treatment import Treatment

__all__ = ["LionPolicy"]


@dataclass(frozen=True)
class LionPolicy:
    """Lion on everything (Chen et al. 2023): the sign of a momentum, half of AdamW's state.

    lr: 3 to 10 times smaller than AdamW's, weight decay as much larger. codec keeps the momentum. embeddings, norms,
    biases, head, adapters: full, free (signSGD) or frozen.
    """

    betas: tuple[float, float] = (0.9, 0.99)
    codec: str | Codec = "fp32"
    embeddings: str = "full"
    norms: str = "full"
    biases: str = "full"
    head: str = "full"
    adapters: str = "full"

    def __post_init__(self):
        self.routes  # noqa: B018  bad options show now

    @cached_property
    def routes(self):
        """Everything state-full, quantized weights frozen."""
        body = Treatment(full=Lion(self.betas), codec=make("codecs", self.codec))
        return place(body, **places(self))
