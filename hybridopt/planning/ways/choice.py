"""A way to train with what it takes."""

from dataclasses import dataclass
from shlex import quote
from typing import Any

from ...core.budget import Budget
from ...core.card_speeds import Flops
from ...core.host import Host
from ..estimate import Estimate
from ..request import Request
from .calls import calls, script
from .ways import Way

__all__ = ["Choice"]


@dataclass(frozen=True)
class Choice:
    """A way to train with what it takes.

    Args:
        way: the way.
        estimate: of the variant of the way that was chosen.
        fits: whether it fits into the memory asked for, beside the margin that is kept free.
        lr: a learning rate to start from.
        change: where it does not, the least harmful change with which it would, for people; None: no single one.
        tight: whether it fits only into that margin.
        causal: whether the model is trained to continue texts.
        place: a folder, or a name on the hub, from which the model could be loaded; None: not known.
    """

    way: Way
    estimate: Estimate
    fits: bool
    lr: float
    change: str | None = None
    tight: bool = False
    causal: bool = True
    place: str | None = None

    @property
    def request(self) -> Request:
        """Return the request that was estimated."""
        return self.estimate.request

    @property
    def script(self) -> str:
        """Return a whole program: imports, loading, `code`, and a loop over a text file or own batches."""
        return script(self.request, self.lr, self.estimate.model.partition(" (")[0], self.causal)

    def command(self, room: Budget) -> str:
        """Return the command that trains the model on such GPUs."""
        given = [quote(self.place) if self.place else "MODEL", "DATA", "--gpu", quote(room.asked)]
        if self.request.gpus == 1:
            return " ".join(["hybridopt train", *given])
        called = f"torchrun --nproc-per-node {self.request.gpus} -m hybridopt train"
        return " ".join([called, *given, "--set", f"parallel={self.request.parallel}"])

    @property
    def code(self) -> str:
        """Return the lines of Python that set the way up, for a loaded model."""
        return calls(self.request, self.lr)

    def as_dict(self, room: Budget, host: Host | None = None, flops: Flops | None = None) -> dict[str, Any]:
        """Return the choice as plain data.

        Args:
            room: of the device; whether it fits there is told.
            host: beside it, whose memory is counted, too.
            flops: that the device reaches; None: not known.
        """
        told = self.estimate.as_dict(room, host, flops)
        out = {"title": self.way.title, "gives_up": self.way.why, **told, "code": self.code}
        return out | ({"change": self.change} if self.change else {})
