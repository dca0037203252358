"""The tensors of a base as training left them, each made when it is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.errors import HybridOptError
from ...model.checksums import checksum
from ...model.loading.matching import Match, shared_names
from ...model.loading.weight_files import Stored, read
from ...model.roles import base_name
from ..names import DELTA
from ..replay.rebuild import check_end, check_start
from ..replay.steps import replay_
from ..replay.trajectory import Trajectory
from .coded import Coded

__all__ = ["Values", "check_shapes", "check_values", "values_of"]


@dataclass
class Values:
    """The tensors of a trained base, by name: changed ones from the delta, replayed, or as the base has them.

    Args:
        match: which stored tensors make which of the base.
        ties: of every name, all names of its tensor.
        delta: where changed tensors lie, by base name.
        coded: changed weights that were kept as codes, by name.
        run: from which others are rebuilt; None: there is none.
    """

    match: Match
    ties: Mapping[str, list[str]]
    delta: Mapping[str, Stored]
    coded: Mapping[str, Coded]
    run: Trajectory | None

    def __post_init__(self) -> None:
        self.replayed = {} if self.run is None else {base_name(name): name for name in self.run.traces}
        self.made = {name: first for first in self.match.sources for name in self.match.made[first]}

    @property
    def names(self) -> set[str]:
        """The names of all tensors that training changed, also of those that share one."""
        return {tied for name in (*self.delta, *self.coded, *self.replayed) for tied in self.ties[name]}

    def __call__(self, name: str) -> Tensor:
        """Return a tensor as training left it."""
        names = self.ties[name]
        if there := next((self.delta[each] for each in names if each in self.delta), None):
            return read(there)
        if changed := next((self.coded[each] for each in names if each in self.coded), None):
            return changed.value(self.stored)
        if again := next((each for each in names if each in self.replayed), None):
            return self._rebuilt(again)
        return self.stored(name)

    def has(self, name: str) -> bool:
        """Return whether the base or the saved folder has a value for a tensor."""
        places = (self.made, self.delta, self.coded, self.replayed)
        return any(each in known for each in self.ties[name] for known in places)

    def stored(self, name: str) -> Tensor:
        """Return a tensor as the base has it."""
        known = next((each for each in self.ties[name] if each in self.made), None)
        if known is None:
            raise HybridOptError(f"neither the base nor what was saved has values of {name!r}; take the whole base")
        first = self.made[known]
        value = self.match.convert(first, [read(entry) for entry, _ in self.match.sources[first]])[known]
        return value[0] if isinstance(value, list) else value

    def _rebuilt(self, name: str) -> Tensor:
        assert self.run is not None
        training = self.replayed[name]
        trace = self.run.traces[training]
        x = self.stored(name).to(trace.dtype)
        check_start(training, trace, x)
        x = x.clone(memory_format=torch.contiguous_format)
        replay_(x, training, self.run.group(training), self.run.moves(training), lambda done: None)
        check_end(training, trace, x)
        return x


def values_of(
    model: nn.Module,
    match: Match,
    delta: Mapping[str, Stored],
    coded: Mapping[str, Coded],
    run: Trajectory | None,
) -> Values:
    """Return the tensors of a trained base.

    Args:
        model: without memory.
        match: where its tensors are stored.
        delta: where changed tensors lie, by base name.
        coded: changed weights that were kept as codes, by name.
        run: from which others are rebuilt; None: there is none.
    """
    return Values(match, {name: names for names in shared_names(model) for name in names}, delta, coded, run)


def check_values(values: Values, config: dict) -> int:
    """Return how many tensors of the base were compared with those that were trained on, by their checksums.

    Args:
        values: of the base.
        config: of the saved folder.

    Raises:
        HybridOptError: naming the first that has other values.
    """
    count = 0
    for name, (_, dtype, digest) in config["base"].items():
        if digest is None or "float" not in dtype or not any(n in values.made for n in values.ties[name]):
            continue
        if checksum(values.stored(name).to(getattr(torch, dtype.removeprefix("torch.")))) != digest:
            raise HybridOptError(
                f"this is not the base model this was trained on: {name!r} has other values; give the folder of the "
                "same base checkpoint (--base)"
            )
        count += 1
    return count


def check_shapes(delta: Mapping[str, Stored], state: Mapping[str, Tensor]) -> None:
    """Raise HybridOptError for saved tensors of another shape than those of the model.

    Args:
        delta: where they lie, by base name.
        state: the tensors of the model.
    """
    for name, entry in delta.items():
        if tuple(state[name].shape) != entry.shape:
            raise HybridOptError(
                f"{DELTA}: {name!r} has shape {entry.shape}, the base model has {tuple(state[name].shape)}; take the "
                "base that it was trained on"
            )
