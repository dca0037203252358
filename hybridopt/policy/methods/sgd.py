"""SGD with momentum."""

from dataclasses import dataclass

from ...core.contracts import Codec, StartFrom
from ...core.registry import make
from ...parts.rules.momentum import Momentum
from ...parts.rules.sgd import SGD
from ...parts.splits.empty import Empty
from ...parts.splits.whole import Whole
from ..routes import Route, place
from ..treatment import Treatment
from ._options import Places
from ._rates import PRETRAIN_128K, guessed

__all__ = ["SGDPolicy"]


@dataclass(frozen=True)
class SGDPolicy(Places):
    """SGD with momentum on everything, as in torch.optim.SGD (Sutskever et al. 2013).

    momentum=0 is plain SGD, with no state at all. nesterov: of the rule; codec keeps the momentum. embeddings, norms,
    biases, head, adapters: full, free (plain SGD) or frozen.
    """

    momentum: float = 0.9
    nesterov: bool = False
    codec: str | Codec = "fp32"
    start_from = StartFrom(
        PRETRAIN_128K(0.3, scaled=False), *2 * (guessed(5.5e-4, "a tenth of LOMO's, as momentum adds ten gradients"),)
    )

    def make_routes(self) -> tuple[Route, ...]:
        """Return routes by which everything is state-full where there is momentum, else state-free."""
        rule = Momentum(self.momentum, nesterov=self.nesterov)
        split = Whole() if self.momentum else Empty()
        body = Treatment(full=rule, free=SGD(), split=split, codec=make("codecs", self.codec))
        return place(body, **{role: self._at(where) for role, where in self.roles().items()}, other=self._at("full"))

    def _at(self, where: str) -> str:
        """Return a place; without momentum there is nothing to be full of."""
        return "free" if where == "full" and not self.momentum else where
