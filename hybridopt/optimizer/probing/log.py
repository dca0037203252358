"""The record of a zeroth-order run: slopes and learning rates, from which its weights follow."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.rank_group import Peers, peers_of_mesh
from ...model.checksums import checksum
from ...model.fsdp.sharded_tensors import is_sharded, whole
from ...model.placement.homes import device_of, near
from .follow import Followed, group_key, head, version
from .log_checks import check_log
from .rates import rates_of

__all__ = ["Log", "settle"]

WHAT = "compare the logs of their runs"


class Log:
    """The slopes of every step since the first, and the groups' learning rates and decays, by runs of steps.

    followed: the parameters whose weights follow from it. origin, heads: checksums of these and their first
    elements before the first step. broken: why they do not follow, None if they do. A skipped step has slopes
    that are not numbers.
    """

    def __init__(self, samples: int):
        self.samples = samples
        self.broken: str | None = None
        self.followed: Sequence[Followed] = ()
        self.origin: dict[str, int] = {}
        self.heads: dict[str, Tensor] = {}
        self.groups: tuple[str, ...] = ()  # what the columns of rates belong to
        self._slopes = array("f")
        self._rates: list[tuple[float, ...]] = []  # lr and decay of every group
        self._counts: list[int] = []
        self._versions: dict[str, int] = {}  # as they were last seen; of no parameter in copies
        self._weights: dict[str, int] | None = None  # checksums that the weights must have when they are next seen

    def __len__(self) -> int:
        return len(self._slopes) // self.samples

    def add(self, slopes: Iterable[float], groups: list[dict]) -> None:
        """Append one step: its slopes, one a direction, and the groups' learning rates and decays."""
        self._slopes.extend(slopes)
        rates = {group_key(group): rates_of(group) for group in groups}
        self.groups = self.groups or tuple(rates)
        if rates.keys() != set(self.groups):
            return self.give_up(f"param groups were added or changed before step {len(self)}")
        row = tuple(x for group in self.groups for x in rates[group])
        if self._rates[-1:] == [row]:
            self._counts[-1] += 1
        else:
            self._rates.append(row)
            self._counts.append(1)

    def watch(self) -> None:
        """Notice from now on, after a step, if somebody else writes to the parameters."""
        self._versions = {f.name: version(f.p) for f in self.followed}

    def begin(self, step: int) -> None:
        """Check before the first probe of a step that nobody has written to them; before the first step note them."""
        if len(self) != step:
            self.give_up(f"it holds {len(self)} steps of {step}")
        elif step:
            self.check()
        else:
            seen = {f.name: _seen(f) for f in self.followed}
            self.origin, self._weights = {name: found for name, (found, _) in seen.items()}, None
            self.heads = {name: found for name, (_, found) in seen.items()}
            self.watch()

    def check(self) -> None:
        """Break if the parameters are not those that this log has left."""
        if self.broken:
            return
        if len(self) and self.origin.keys() != {f.name for f in self.followed}:
            self.give_up("parameters were added or left out, or are trained otherwise now")
        elif other := self._other():
            self.give_up(other)
        self._weights = None
        self.watch()

    def settle(self) -> None:
        """Do as `check` does, and agree about it with the ranks that have the other rows; all of them have to ask."""
        peers = _sharing([f.p for f in self.followed])
        self.agree(peers)
        self.check()
        self.agree(peers)

    def agree(self, peers: Peers | None) -> None:
        """Break the log on all ranks if it is broken on any, or if they have other ones; all have to ask.

        peers: the ranks; None: there are no others.
        """
        if peers is None:
            return
        mine = [float(len(self)), float(self.broken is not None), float(self._weights is not None)]
        rows = peers.numbers(mine, WHAT)
        if all(row == rows[0] for row in rows):
            return
        said = peers.said((len(self), self.broken), WHAT)
        bad = next((f"on rank {rank}: {broken}" for rank, (_, broken) in said if broken), None)
        each = ", ".join(f"{steps} on rank {rank}" for rank, (steps, _) in said)
        self.give_up(bad or f"ranks have not loaded the same log: it holds {each} steps")

    def _other(self):
        """Say what is not as this log has left it."""
        if self._weights is None:
            seen = self._versions
            changed = (f.name for f in self.followed if f.name in seen and seen[f.name] != version(f.p))
            why = f"was changed by somebody else before step {len(self)}"
        else:
            now = self._checksums()
            changed = (name for name in now if now[name] != self._weights.get(name))
            why = "is not what it was when the log was saved"
        return next((f"{name!r} {why}" for name in changed), None)

    def give_up(self, why: str) -> None:
        """Say why the weights no longer follow from the log, unless that was said before."""
        self.broken = self.broken or why

    def _checksums(self):
        return {f.name: checksum(near(f.p)) for f in self.followed}

    # ---- saving and loading

    @property
    def numbers(self) -> dict[str, Tensor]:
        """slopes: float32 [steps, samples]; rates: float64 [runs, 2 * groups], lr and decay; counts: int32 [runs]."""
        return {
            "slopes": torch.tensor(self._slopes, dtype=torch.float32, device="cpu").view(-1, self.samples),
            "rates": torch.tensor(self._rates, dtype=torch.float64, device="cpu").view(
                len(self._counts), 2 * len(self.groups)
            ),
            "counts": torch.tensor(self._counts, dtype=torch.int32, device="cpu"),
        }

    def state(self) -> dict:
        """Return plain tensors, lists and dicts, with checksums of the weights as they are."""
        self.settle()
        weights = {} if self.broken or not len(self) else self._checksums()
        own = {"groups": list(self.groups), "origin": dict(self.origin), "heads": dict(self.heads)}
        return self.numbers | own | {"weights": weights, "broken": self.broken or ""}

    def load(self, state: dict) -> None:
        """Take over what `state` gave; the weights are compared when they are next used.

        Raises HybridOptError for another number of directions, and for what `state` never gave.
        """
        state = check_log(state, self.samples)
        self._slopes = array("f", state["slopes"].flatten().tolist())
        self._rates = [tuple(row) for row in state["rates"].tolist()]
        self._counts, self.groups = state["counts"].tolist(), tuple(state["groups"])
        self.origin, self.broken = dict(state["origin"]), state["broken"] or None
        devices = {f.name: device_of(f.p) for f in self.followed}
        self.heads = {name: x.to(devices.get(name, x.device)) for name, x in state["heads"].items()}
        self._versions, self._weights = {}, dict(state["weights"]) if state["weights"] else None

    def copy(self) -> "Log":
        """Return another log of the same parameters."""
        other = Log(self.samples)
        other.__dict__.update(self.__dict__)
        other._slopes, other._rates, other._counts = self._slopes[:], self._rates[:], self._counts[:]
        return other

    def __getstate__(self) -> dict:
        """For deep copies and pickles, whose parameters are others, of the same values."""
        return self.__dict__ | {"followed": (), "_versions": {}}


def settle(logs: Mapping[int, Log], tensors: Sequence[Tensor]) -> None:
    """Settle the logs of a model's optimizers; one that another rank has no more is broken.

    All ranks that have shards of the model have to call this.

    Args:
        logs: by the number of the optimizer, counted as they were made.
        tensors: of the model.
    """
    peers = _sharing(tensors)
    there = [set(logs)] if peers is None else [set(numbers) for _, numbers in peers.said(sorted(logs), WHAT)]
    for number in sorted(set[int]().union(*there)):
        if all(number in each for each in there):
            logs[number].settle()
        elif number in logs:
            logs[number].give_up("another rank has no optimizer any more with which it was trained")


def _sharing(tensors: Iterable[Tensor]) -> Peers | None:
    """Return the ranks that share the rows of tensors; None where none is sharded."""
    first: Any = next((x for x in tensors if is_sharded(x)), None)
    return None if first is None else peers_of_mesh(first.device_mesh)


def _seen(f: Followed) -> tuple[int, Tensor]:
    """Return the checksum of a parameter, and its first elements; of a sharded one all ranks have to ask."""
    p = whole(near(f.p).detach())
    return checksum(p), head(p, f.seen)
