"""Split batches by length: short rows for the gradient, long rows for the probe (Addax, Li et al. 2025)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler, default_collate

from hybridopt.core.contracts import stream
from hybridopt.core.errors import HybridOptError, check_count

__all__ = ["Halves", "PairCollator", "PairSampler", "lengths_of", "pair_loader"]

Lengths = Sequence[int] | Callable[[Any], int] | None


@dataclass(frozen=True)
class Halves:
    """Which rows are for the gradient and which for the probe of a step, and how many at once.

    Args:
        threshold: rows of at most so many tokens are for the gradient, longer ones for the probe. None: both halves
            draw from all rows ("Addax without assignment").
        fo_batch: rows of the first-order half, the gradient (the paper's K1).
        zo_batch: rows of the zeroth-order half, the probe (the paper's K0).
    """

    threshold: int | None = None
    fo_batch: int = 4
    zo_batch: int = 6

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if self.threshold is not None:
            check_count(owner, "threshold", self.threshold, 0)
        check_count(owner, "fo_batch", self.fo_batch, 1)
        check_count(owner, "zo_batch", self.zo_batch, 1)

    def divide(self, lengths: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the numbers of the first-order and of the zeroth-order rows.

        Args:
            lengths: tokens of every row.

        Raises:
            HybridOptError: a half is empty.
        """
        if not lengths:
            raise HybridOptError("lengths=[]: the data set has no rows")
        if self.threshold is None:
            return list(range(len(lengths))), list(range(len(lengths)))
        short = [i for i, length in enumerate(lengths) if length <= self.threshold]
        long = [i for i, length in enumerate(lengths) if length > self.threshold]
        if not short or not long:
            _refuse(self.threshold, min(lengths), max(lengths), "zeroth" if short else "first")
        return short, long


def _refuse(threshold: int, shortest: int, longest: int, empty: str) -> NoReturn:
    cure = f"give one in [{shortest}, {longest - 1}]"
    if shortest == longest:
        cure = "rows that are all of one length (padded or packed?) cannot be split"
    raise HybridOptError(
        f"threshold={threshold} leaves no rows for the {empty}-order half: they have {shortest} to {longest} tokens; "
        f"{cure}, or threshold=None, by which both halves draw from all rows"
    )


def lengths_of(dataset: Any, lengths: Lengths = None) -> list[int]:
    """Return the length of every row of a map-style data set, in tokens.

    Args:
        dataset: has a length and gives rows by number.
        lengths: a number for each row, or a function of a row; `len(row["input_ids"])` unless given.

    Raises:
        HybridOptError: the data set is not map-style, a row has no length, or there is not one length for each row.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise HybridOptError(
            f"{type(dataset).__name__} cannot be split by length, as it gives no row by number; give a "
            "map-style data set"
        )
    if lengths is None or callable(lengths):
        return [int((lengths or _tokens)(dataset[i])) for i in range(len(dataset))]
    if len(lengths) != len(dataset):
        raise HybridOptError(
            f"lengths has {len(lengths)} entries, and the data set {len(dataset)} rows; give one each"
        )
    return [int(length) for length in lengths]


def _tokens(row: Any) -> int:
    try:
        return len(row["input_ids"])
    except (KeyError, TypeError, IndexError) as error:
        raise HybridOptError(
            "a row without 'input_ids' has no length of its own; give lengths=[...], or a function of a row"
        ) from error


class PairSampler(Sampler[list[int]]):
    """A batch sampler: row numbers of a first-order batch, followed by those of a zeroth-order batch.

    Both halves are shuffled by (seed, epoch). The epoch ends when every row was drawn: the half that runs out first
    starts over in a new order, and the last batch is filled up in the same way, so all batches are full. An iteration
    ends by moving on to the next epoch.

    `state_dict()` is the epoch and the number of batches drawn; the next iteration after `load_state_dict` goes on
    there. Loaders that read ahead (worker processes, accelerate) have drawn more than was trained: set "position" to
    the number of batches trained.

    Args:
        lengths: tokens of every row.
        halves: how rows are split, and how many each half of a pair has.
        seed: of the order.
        rank: of this process.
        ranks: number of processes; each draws every `ranks`-th pair.
    """

    def __init__(self, lengths: Sequence[int], halves: Halves, seed: int = 0, rank: int = 0, ranks: int = 1):
        check_count("PairSampler", "seed", seed, 0)
        self.halves, self.seed, self.rank, self.ranks = halves, seed, rank, ranks
        self.short, self.long = halves.divide(lengths)
        self.epoch = self.position = self._start = 0

    def __len__(self) -> int:
        """Return the number of pairs of batches that one rank draws in an epoch."""
        return max(math.ceil(len(rows) / (count * self.ranks)) for rows, count in self._halves())

    def __iter__(self) -> Iterator[list[int]]:
        self.position, self._start = self._start, 0
        epoch = self.epoch
        for index in range(self.position, len(self)):
            self.position = index + 1
            yield self.rows(epoch, index * self.ranks + self.rank)
        self.set_epoch(epoch + 1)

    def rows(self, epoch: int, index: int) -> list[int]:
        """Return the row numbers of a pair of batches: fo_batch first-order ones, then zo_batch zeroth-order ones.

        Args:
            epoch: of the order.
            index: of the pair within the epoch, counted over all ranks.
        """
        drawn = []
        for half, (rows, count) in enumerate(self._halves()):
            for i in range(index * count, (index + 1) * count):
                turn, place = divmod(i, len(rows))
                drawn.append(rows[_order(self.seed, epoch, half, turn, len(rows))[place]])
        return drawn

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch; nothing changes if it is the current one."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and the "position" in it: the number of batches drawn."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from the epoch and position of a `state_dict()`.

        Raises:
            HybridOptError: a number is missing or negative, or the position is beyond the end of an epoch.
        """
        for key in ("epoch", "position"):
            check_count("PairSampler", key, state.get(key), 0)
        if state["position"] > len(self):
            raise HybridOptError(
                f"PairSampler: position={state['position']} is beyond the {len(self)} batches of an epoch; it was "
                "saved for other data or batch sizes"
            )
        self.epoch, self.position, self._start = state["epoch"], state["position"], state["position"]

    def _halves(self) -> tuple[tuple[list[int], int], tuple[list[int], int]]:
        """Return (row numbers, batch size) of the first-order and of the zeroth-order half."""
        return (self.short, self.halves.fo_batch), (self.long, self.halves.zo_batch)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, half: int, turn: int, size: int) -> list[int]:
    """Return the order of the `size` rows of a half in its `turn`-th pass over them within an epoch."""
    random = torch.Generator().manual_seed(stream(seed, "lengths", epoch, half, turn))
    return torch.randperm(size, generator=random).tolist()


@dataclass(frozen=True)
class PairCollator:
    """Collates both halves separately, so that each is padded to its own longest row: {"fo": batch, "zo": batch}.

    Args:
        collate: makes a batch of a list of rows.
        fo_batch: rows of the first-order half.
    """

    collate: Callable[[list], Any]
    fo_batch: int

    def __call__(self, rows: list) -> dict[str, Any]:
        """Return {"fo": batch, "zo": batch}; the first `fo_batch` of the rows are the first-order ones."""
        return {"fo": self.collate(rows[: self.fo_batch]), "zo": self.collate(rows[self.fo_batch :])}


def pair_loader(
    dataset: Any,
    halves: Halves,
    lengths: Lengths = None,
    collate: Callable[[list], Any] = default_collate,
    seed: int = 0,
    **options: Any,
) -> DataLoader:
    """Make a DataLoader of {"fo": batch, "zo": batch}; its `batch_sampler` is a `PairSampler`.

    Args:
        dataset: map-style.
        halves: which rows are for the gradient and which for the probe, and how many at once.
        lengths: tokens of every row, or a function of a row; `len(row["input_ids"])` unless given.
        collate: makes a batch of a list of rows, as a Hugging Face data collator does.
        seed: of the order of rows.
        options: DataLoader's.

    Raises:
        HybridOptError: the data set is not map-style, its rows have no lengths, or a half is empty.
    """
    sampler = PairSampler(lengths_of(dataset, lengths), halves, seed)
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=PairCollator(collate, halves.fo_batch), **options)
