"""Choose Addax's length threshold and batch sizes from a memory budget."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from hybridopt.core.devices import free_bytes
from hybridopt.core.errors import HybridOptError
from hybridopt.core.files import plain_json
from hybridopt.core.sizes import bytes_of, human
from hybridopt.model.quantization.sizes import weight_bytes

from .activations import RowBatches, measure
from .length_costs import LengthCosts
from .lengths import Halves, Lengths, lengths_of

FREE = "free"

__all__ = ["Assignment", "assign", "choose", "measure_rows", "total_bytes"]


@dataclass(frozen=True, kw_only=True)
class Assignment(Halves):
    """The Halves that were chosen for a memory budget, and the bytes they take; prints as a table.

    Args:
        budget: bytes that were allowed, weights included.
        weights: bytes of the weights.
        gradients: bytes of the gradients that are alive at once.
        longest: tokens of the longest row.
        fo_bytes: peak bytes of a gradient on fo_batch rows of `threshold` tokens, weights included.
        zo_bytes: peak bytes of a probe on zo_batch rows of `longest` tokens, weights included.
        fo_share: share of the rows that the gradient draws from; 1.0 if both halves draw from all.
        all_bytes: peak bytes of a gradient on fo_batch rows of `longest` tokens, weights included.
        checkpointed_bytes: `all_bytes` with gradient checkpointing; None: the model cannot do it.
    """

    budget: int
    weights: int
    gradients: int
    longest: int
    fo_bytes: int
    zo_bytes: int
    fo_share: float
    all_bytes: int
    checkpointed_bytes: int | None = None

    @property
    def zo_share(self) -> float:
        """Return the share of the rows that the probe draws from."""
        return 1.0 if self.threshold is None else 1 - self.fo_share

    def save(self, path: str | Path) -> None:
        """Write this assignment to a file as JSON."""
        plain_json.write(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Assignment":
        """Read an assignment from a file that `save` wrote.

        Raises:
            HybridOptError: the file holds anything else.
        """
        data = plain_json.read(path, "the assignment")
        plain_json.only(data, [field.name for field in fields(cls)], str(path))
        return cls(**{field.name: plain_json.take(data, field.name, field.type, str(path)) for field in fields(cls)})

    def __str__(self) -> str:
        """Return a table of the two halves, and below it the budget and what a gradient on all rows would take."""
        limit = self.longest if self.threshold is None else self.threshold
        head = ("half", "rows", "share", "batch", "bytes")
        first = ("first-order", f"<= {limit} tokens", f"{self.fo_share:.1%}", f"{self.fo_batch}", human(self.fo_bytes))
        over = f"<= {self.longest} tokens" if self.threshold is None else f"> {limit} tokens"
        zeroth = ("zeroth-order", over, f"{self.zo_share:.1%}", f"{self.zo_batch}", human(self.zo_bytes))
        width = [max(map(len, column)) for column in zip(head, first, zeroth, strict=True)]
        lines = ["  ".join(map(str.ljust, line, width)).rstrip() for line in (head, first, zeroth)]
        return "\n".join([*lines, self._remarks()])

    def _remarks(self) -> str:
        said = f"budget {human(self.budget)}: weights {human(self.weights)}, gradients {human(self.gradients)}; "
        said += f"gradients on rows of all lengths would take {human(self.all_bytes)}"
        if self.checkpointed_bytes not in (None, self.all_bytes):  # equal where it is on already
            fits = "which fits" if self.checkpointed_bytes <= self.budget else "too much as well"
            said += f", with gradient checkpointing {human(self.checkpointed_bytes)}" + (
                f", {fits}" if self.all_bytes > self.budget else ""
            )
        return said + ("" if self.threshold is not None else "\neverything fits: no split by length is needed")


def choose(costs: LengthCosts, lengths: Sequence[int], budget: int, halves: Halves = Halves()) -> Assignment:
    """Choose the largest length threshold that a memory budget allows.

    A step of Addax (Li et al. 2025) takes the weights, and the greater of a probe of long rows and a backward pass
    over short ones.

    Args:
        costs: bytes by batch size and length, as `measure_rows` finds them.
        lengths: tokens of every row.
        budget: bytes, weights included.
        halves: the batch sizes that are wanted, without a threshold; they shrink only where no row length fits.

    Raises:
        HybridOptError: a single row takes more than the budget, by how many bytes; or `halves` has a threshold.
    """
    if halves.threshold is not None:
        raise HybridOptError(
            f"threshold={halves.threshold} is given already; there is nothing to choose from a budget"
        )
    levels = sorted(set(lengths))
    longest = levels[-1]
    zo_batch = _largest(halves.zo_batch, lambda k: costs.zeroth_order(k, longest) <= budget)
    if not zo_batch:
        _refuse("the probe", longest, costs.zeroth_order(1, longest), budget)
    fo_batch = _largest(halves.fo_batch, lambda k: costs.first_order(k, levels[0]) <= budget)
    if not fo_batch:
        _refuse("the gradient", levels[0], costs.first_order(1, levels[0]), budget)
    limit = max(length for length in levels if costs.first_order(fo_batch, length) <= budget)
    return Assignment(
        threshold=None if limit == longest else limit,
        fo_batch=fo_batch,
        zo_batch=zo_batch,
        budget=budget,
        weights=costs.weights,
        gradients=costs.gradients,
        longest=longest,
        fo_bytes=costs.first_order(fo_batch, limit),
        zo_bytes=costs.zeroth_order(zo_batch, longest),
        fo_share=sum(length <= limit for length in lengths) / len(lengths),
        all_bytes=costs.first_order(fo_batch, longest),
        checkpointed_bytes=costs.with_checkpointing(fo_batch, longest),
    )


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from 1 to `most` that fits, or 0."""
    return next((k for k in range(most, 0, -1) if fits(k)), 0)


def _refuse(what: str, length: int, needed: int, budget: int) -> NoReturn:
    cure = "shorten the rows, " if what == "the probe" else "take policy='mezo', gradient checkpointing, "
    raise HybridOptError(
        f"budget={budget} ({human(budget)}): {what} of a single row of {length} tokens takes {needed} bytes, weights "
        f"included; {needed - budget} bytes ({human(needed - budget)}) are missing. Raise the budget, {cure}quantize "
        "the base, or train an adapter"
    )


def assign(
    model: nn.Module,
    dataset: Any,
    collate: Callable[[list], Any] = default_collate,
    budget: int | str = FREE,
    lengths: Lengths = None,
    loss: Callable[[Any], Tensor] | None = None,
) -> Assignment:
    """Measure a model on a data set and choose the length threshold for a memory budget, with the paper's batch sizes.

    Args:
        model: on the device where it is to be trained.
        dataset: map-style.
        collate: makes a batch of a list of rows.
        budget: weights included: a number of bytes, text such as "8GiB", or "free" (see `total_bytes`).
        lengths: tokens of every row, or a function of a row; `len(row["input_ids"])` unless given.
        loss: of a batch, on the model's device; `model(**batch).loss` unless given.

    Raises:
        HybridOptError: a single row takes more than the budget, the budget is no size, or nothing is trained.
    """
    sizes = lengths_of(dataset, lengths)
    return choose(measure_rows(model, dataset, sizes, collate, loss), sizes, total_bytes(budget, model))


def measure_rows(
    model: nn.Module,
    dataset: Any,
    lengths: Sequence[int],
    collate: Callable[[list], Any],
    loss: Callable[[Any], Tensor] | None = None,
) -> LengthCosts:
    """Measure the bytes of batches that are cut from the longest row of a data set.

    Args:
        model: on the device where it is to be trained.
        dataset: map-style.
        lengths: tokens of every row.
        collate: makes a batch of a list of rows.
        loss: of a batch, on the model's device; `model(**batch).loss` unless given.
    """
    Halves().divide(lengths)
    longest = max(lengths)
    rows = RowBatches(dataset[lengths.index(longest)], longest, collate)
    device = _device(model)
    loss = loss or (lambda batch: model(**{key: value.to(device) for key, value in batch.items()}).loss)
    return measure(model, lambda batch, length: loss(rows(batch, length)), longest)


def total_bytes(budget: int | str, model: nn.Module) -> int:
    """Return a memory budget in bytes, weights included.

    Args:
        budget: a number of bytes, text such as "8GiB" or "80 GB", or "free": the weights and what is free on the
            model's GPU now.
        model: whose weights and device "free" is about.

    Raises:
        HybridOptError: the budget is no size, or "free" where the model is on no GPU.
    """
    if budget == FREE:
        return weight_bytes(model) + _free(_device(model))
    return bytes_of(budget, "budget")


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _free(device: torch.device) -> int:
    """Return the bytes that torch could still allocate on a GPU, its own cache included."""
    if device.type != "cuda":
        raise HybridOptError(f"budget='free' is the free memory of a GPU, and the model is on {device}; give '8GiB'")
    return free_bytes(device)
