"""The record of a zeroth-order run: slopes and learning rates, from which its weights follow."""

from array import array
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import HybridOptError

__all__ = ["Log"]


class Log:
    """The slopes of every step since the first, and the groups' learning rates and weight decays, by runs of steps.

    broken: why the weights do not follow from it, None if they do. A skipped step has slopes that are not numbers.
    """

    def __init__(self, samples: int):
        self.samples, self.broken = samples, None
        self._slopes = array("f")
        self._rates: list[tuple[float, ...]] = []  # lr and weight decay of every group
        self._counts: list[int] = []
        self._versions: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._slopes) // self.samples

    def add(self, slopes: Iterable[float], groups: list[dict]) -> None:
        """One step."""
        self._slopes.extend(slopes)
        rates = tuple(float(group[key]) for group in groups for key in ("lr", "weight_decay"))
        if self._rates and self._rates[-1] == rates:
            self._counts[-1] += 1
        else:
            self._rates.append(rates)
            self._counts.append(1)

    def watch(self, work: Iterable[tuple[str, Tensor]]) -> None:
        """After a step: notice from now on if somebody else writes to these parameters."""
        self._versions = {name: p._version for name, p in work}

    def look(self, work: Iterable[tuple[str, Tensor]], step: int) -> None:
        """Before a step: has somebody written to them?"""
        before = self._versions or {}
        other = next((name for name, p in work if before.get(name, p._version) != p._version), None)
        if len(self) != step:
            self.broken = f"it holds {len(self)} steps of {step}"
        elif other is not None:
            self.broken = f"{other!r} was changed by somebody else before step {step}"

    def state(self) -> dict[str, Tensor | str]:
        """Plain tensors: slopes [steps, samples], rates [runs, 2 * groups], counts [runs]."""
        return {
            "slopes": torch.tensor(self._slopes, dtype=torch.float32).view(-1, self.samples),
            "rates": torch.tensor(self._rates, dtype=torch.float64),
            "counts": torch.tensor(self._counts, dtype=torch.int64),
            "broken": self.broken or "",
        }

    def load(self, state: dict) -> None:
        """Take over what `state` gave. Raises HybridOptError for another number of directions."""
        slopes = state["slopes"]
        if slopes.ndim != 2 or slopes.shape[1] != self.samples:
            raise HybridOptError(
                f"the saved log has {tuple(slopes.shape)} slopes, this optimizer {self.samples} a step"
            )
        self._slopes = array("f", slopes.flatten().tolist())
        self._rates = [tuple(row) for row in state["rates"].tolist()]
        self._counts, self.broken = state["counts"].tolist(), state["broken"] or None
        self._versions = None
