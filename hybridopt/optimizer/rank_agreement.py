"""Whether all ranks train the same in the same way; found out before they meet for an update or a loss."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from ..core.contracts import stream
from ..core.errors import HybridOptError
from ..core.rank_group import Peers
from ..core.version import __version__
from .parameters import Parameters
from .training_ranks import TrainingRanks

__all__ = ["Agreement"]

Facts = Mapping[str, str]
NUMBERS = ("lr", "weight_decay", "seed", "step")


class Agreement:
    """Compares what ranks are about to do, once for every set of param groups, in their first step.

    Args:
        options: of the optimizer, by name: what all ranks must have in common.
        together: knows which ranks train the same model.
        losses: do windows go by the losses of all ranks?
    """

    def __init__(self, options: Mapping[str, object], together: TrainingRanks, losses: bool):
        self._options = {name: repr(value) for name, value in options.items()}
        self._training_ranks, self._losses = together, losses
        self._found: tuple[Parameters, Any, Peers | None] | None = None
        self._compared: tuple[Parameters, bool] | None = None

    def peers(self, parameters: Parameters, ddp: Any) -> Peers | None:
        """Return the ranks that are compared, and share losses; None: no others.

        Args:
            parameters: of the optimizer.
            ddp: the DistributedDataParallel that they lie in, if any.
        """
        if self._found is None or self._found[0] is not parameters or self._found[1] is not ddp:
            asked = self._losses or any(one.probed for one in parameters.windows.all())
            self._found = parameters, ddp, self._training_ranks.peers(parameters, ddp, asked)
        return self._found[2]

    def check(self, parameters: Parameters, ddp: Any = None) -> None:
        """Raise HybridOptError on all ranks if any two differ, naming ranks and what differs.

        Without shards, replicas, a group that is named, and losses that all processes share, ranks are not compared.

        Args:
            parameters: of the optimizer.
            ddp: the DistributedDataParallel that they lie in, if any.
        """
        before = self._compared
        if before is not None and before[0] is parameters and before[1] == (ddp is not None):
            return
        peers = self.peers(parameters, ddp)
        if peers is not None:
            _compare(self._facts(parameters), peers)
        self._compared = parameters, ddp is not None

    def _facts(self, parameters: Parameters) -> Facts:
        facts = {"hybridopt's version": __version__, "torch's version": f"{torch.__version__}"} | self._options
        for one in parameters.windows.all():
            p, where = one.p, f"parameter {one.name!r}"
            facts |= {f"{key} of {where}": f"{one.group[key]}" for key in NUMBERS}
            facts[f"shape and dtype of {where}"] = f"{tuple(p.shape)} {p.dtype}"
            facts[f"placement of {where}"] = "not sharded" if one.share is None else f"{one.share.rows.placements}"
            facts[f"treatment of {where}"] = one.group["treatment"]
        return facts


def _compare(mine: Facts, peers: Peers) -> None:
    """Compare facts by a number first, as all are the same in nearly every run."""
    if peers.alike(stream(json.dumps(mine, sort_keys=True)), "compare what they train"):
        return
    (a, first), *others = peers.said(dict(mine), "say what they train")
    for b, other in others:
        for key in (k for k in [*first, *other] if first.get(k) != other.get(k)):
            raise HybridOptError(
                f"ranks do not train the same: {key} is {first.get(key, 'missing')} on rank {a} and "
                f"{other.get(key, 'missing')} on rank {b}; nothing was changed. Give all ranks the same model, "
                "policy, options and seed, in the same versions"
            )
