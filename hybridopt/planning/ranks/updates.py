"""State and updates of a rank that has a shard of every parameter."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from ...core.contracts import Draw
from ...execution.sharded.gathered import FLAG, MOST
from ...execution.sharded.rows import RankRows, part_of
from ...execution.sharded.work_division import ROUNDS, WHOLE, Share, kept, way_of
from ...policy.plan import Entry, Plan
from ..bytes.static import weight_bytes
from ..bytes.temporaries import Temporaries
from .units import is_cut

__all__ = ["RankUpdates"]


class RankUpdates:
    """What the rank with most state keeps, and what its updates take.

    Args:
        plan: of the whole model.
        cuda: is it trained on GPUs?
        ranks: that share the parameters.
    """

    def __init__(self, plan: Plan, cuda: bool, ranks: int):
        self.plan, self.ranks = plan, ranks
        self.entries = {e.param.name: e for e in plan.entries if e.treatment is not None}
        self.shares = self._shares()
        sizes = [self._state(rank, self.entries.values()) for rank in range(ranks)]
        self.state = max(sizes)
        self.rank = sizes.index(self.state)
        self._whole = Temporaries(plan, cuda)
        self._own = Temporaries(self._cut_plan, cuda)
        self.drawing = self._whole.drawing

    @cached_property
    def _cut_plan(self) -> Plan:
        """Return the plan of this rank's rows, as far as parameters are updated by rows."""
        return Plan(tuple(e for entry in self.plan.entries if (e := self._cut(entry)) is not None), self.plan.seed)

    @property
    def lasting(self) -> int:
        """Return the bytes that stay on the device from the first step on, by the updates that were looked at."""
        return max(self._whole.lasting, self._own.lasting)

    @property
    def noting(self) -> int:
        """Return the bytes that are taken for a moment before the first step, to note the weights, each gathered."""
        noting = self._whole.noting
        return noting + max((self._weight(name) for name in self.shares if noting), default=0)

    def alone(self, name: str) -> int:
        """Return the bytes of updating one parameter by itself."""
        if self._way(name) == WHOLE:
            return self._exchanged([[name] if rank == self.shares[name].owner else [] for rank in range(self.ranks)])
        cut = self._cut(self.entries[name])
        return self._vectors([name]) + (0 if cut is None else self._own.alone(name))

    def together(self, idle: frozenset[str] = frozenset()) -> int:
        """Return the bytes of updating all parameters but the idle ones in `step`."""
        moved = [name for name in self.entries if name not in idle]
        near = [name for name in moved if self._way(name) != WHOLE]
        still = idle | {name for name in moved if self._way(name) == WHOLE}
        rounds = [name for name in near if self._way(name) == ROUNDS]
        return max(
            self._own.together(still) + self._vectors(rounds) if near else 0,
            self._exchanges([name for name in moved if self._way(name) == WHOLE]),
        )

    def moved(self, gradients: Mapping[str, int], idle: frozenset[str]) -> int:
        """Return the bytes that the update of the rank with most reads and writes.

        Those of its rows, weights both ways and gradients once, of matrices that it updates for all once more, whole,
        and of its state, both ways.

        Args:
            gradients: bytes by name of those that the backward pass serves.
            idle: names of parameters that are left alone.
        """
        moved = {name: entry for name, entry in self.entries.items() if name not in idle}
        return max(self._moved(moved, gradients, rank) for rank in range(self.ranks))

    def _moved(self, entries: Mapping[str, Entry], gradients: Mapping[str, int], rank: int) -> int:
        total = 2 * self._state(rank, entries.values())
        for name, entry in entries.items():
            share, whole = self.shares.get(name), 2 * weight_bytes(entry) + gradients.get(name, 0)
            if share is None:
                total += whole
                continue
            first, end = share.rows.cut(rank)
            owned = share.way == WHOLE and share.owner == rank
            total += whole * (end - first) // max(1, share.rows.total) + owned * whole
        return total

    def _way(self, name: str) -> str:
        return self.shares[name].way if name in self.shares else ""

    def _shares(self) -> dict[str, Share]:
        """Return how every sharded parameter is updated, as the optimizer settles it."""
        found, loads = dict[str, Share](), dict.fromkeys(range(self.ranks), 0)
        for name, entry in self.entries.items():
            if not is_cut(entry.param):
                continue
            p, treatment = entry.param, entry.treatment
            assert treatment is not None
            rows = RankRows(p.shape[0] if p.shape else 1, self.ranks, 0, None, (), 0)
            draw = Draw(self.plan.seed, name)
            way = way_of(self.plan.job(entry, 0), treatment.store_for(p.dtype), rows, draw)
            owner = min(loads, key=lambda rank: loads[rank]) if way == WHOLE else 0
            loads[owner] += entry.numel if way == WHOLE else 0
            found[name] = Share(way, rows, owner)
        return found

    def _state(self, rank: int, entries: Iterable[Entry]) -> int:
        series = [self._series(entry, rank) for entry in entries]
        windows = range(max(map(len, series), default=0))
        return max((sum(s[min(w, len(s) - 1)] for s in series) for w in windows), default=0)

    def _series(self, entry: Entry, rank: int) -> Sequence[int]:
        """Return the bytes of a parameter's state on a rank, one number a window."""
        share = self.shares.get(entry.param.name)
        if share is None:
            return self.plan.state_bytes[entry.param.name]
        if share.way == WHOLE and share.owner != rank:
            return (0,)
        own = replace(share, rows=replace(share.rows, rank=rank))
        slots = [kept(job, own).values() for job in self.plan.jobs(entry)]
        return [sum(math.prod(slot.shape) * slot.dtype.itemsize for slot in some) for some in slots]

    def _cut(self, entry: Entry) -> Entry | None:
        """Return a parameter as this rank has it; None where it has no row of it."""
        share = self.shares.get(entry.param.name)
        if share is None or share.way == WHOLE:
            return entry
        rows = replace(share.rows, rank=self.rank)
        shape = part_of(rows, entry.param.shape or (1,), self.rank)
        return replace(entry, param=replace(entry.param, shape=shape)) if shape[0] else None

    def _vectors(self, names: Sequence[str]) -> int:
        """Return the bytes of what goes round for these parameters: numbers by row and sums by column, and a copy."""
        shapes = [self.plan.first(self.entries[n]).shape for n in names if self._way(n) == ROUNDS]
        return 2 * 4 * sum(map(sum, shapes))

    # ---- updates of whole matrices, each by one rank

    def _exchanges(self, names: Sequence[str]) -> int:
        """Return the bytes of updating whole parameters, batch by batch."""
        waiting: list[list[str]] = [[] for _ in range(self.ranks)]
        for name in names:
            waiting[self.shares[name].owner].append(name)
        most = 0
        while any(waiting):
            batch = [_first(mine, self._pair) for mine in waiting]
            waiting = [mine[len(some) :] for mine, some in zip(waiting, batch, strict=True)]
            most = max(most, self._exchanged(batch))
        return most

    def _exchanged(self, batch: Sequence[Sequence[str]]) -> int:
        """Return the bytes of one exchange: rows to their owners, the update, and new rows back."""
        every, mine = [name for some in batch for name in some], batch[self.rank]
        sent, back = sum(map(self._mine, every)), sum(self._weight(name) for name in mine)
        came = sum(map(self._pair, mine))
        others = frozenset(self.entries).difference(mine)
        update = self._whole.alone(mine[0]) if len(mine) == 1 else self._whole.together(others) if mine else 0
        got = sum(self._mine(name) * self._weight(name) // self._pair(name) for name in every) + FLAG * self.ranks
        return max(2 * sent + came, 2 * came + update, 2 * came + 2 * back + got)

    def _weight(self, name: str) -> int:
        entry = self.entries[name]
        return entry.numel * entry.param.dtype.itemsize

    def _pair(self, name: str) -> int:
        """Return the bytes of a parameter and its gradient."""
        return 2 * self._weight(name)

    def _mine(self, name: str) -> int:
        """Return the bytes of this rank's rows of a parameter and its gradient."""
        rows = replace(self.shares[name].rows, rank=self.rank)
        return self._pair(name) * rows.count // max(1, rows.total)


def _first(names, size):
    """Return the names of which a rank gets all rows at one time: as many as have room, and at least one."""
    many, total = 0, 0
    while many < len(names) and (many == 0 or total + size(names[many]) <= MOST):
        total += size(names[many])
        many += 1
    return names[:many]
