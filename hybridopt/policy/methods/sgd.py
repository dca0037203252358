"""SGD with momentum."""

from dataclasses import dataclass
from functools import cached_property

from ...core.contracts import Codec
from ...core.registry import make
from ...parts.rules.momentum import Momentum
from ...parts.rules.sgd import SGD
from ...parts.splits.empty import Empty
from ...parts.splits.whole import Whole
from ..routes import place
from ..treatment import Treatment

__all__ = ["SGDPolicy"]


@dataclass(frozen=True)
class SGDPolicy:
    """SGD with momentum on everything, as in torch.optim.SGD (Sutskever et al. 2013).

    momentum=0 is plain SGD, with no state at all. nesterov: of the rule; codec keeps the momentum. embeddings, norms,
    biases, head, adapters: full, free (plain SGD) or frozen.
    """

    momentum: float = 0.9
    nesterov: bool = False
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
        """Everything state-full where there is momentum, else state-free; quantized weights frozen."""
        rule = Momentum(self.momentum, nesterov=self.nesterov)
        split = Whole() if self.momentum else Empty()
        body = Treatment(full=rule, free=SGD(), split=split, codec=make("codecs", self.codec))
        return place(
            body,
            embedding=self._at(self.embeddings),
            norm=self._at(self.norms),
            bias=self._at(self.biases),
            head=self._at(self.head),
            adapter=self._at(self.adapters),
            other=self._at("full"),
        )

    def _at(self, where):
        """A place; without momentum there is nothing to be full of."""
        return "free" if where == "full" and not self.momentum else where
