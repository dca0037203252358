"""Windows whose lengths follow from the loss: where each begins, and what was seen in the one that is on."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from torch import Tensor

from ...core.contracts import GapSchedule
from ...core.errors import HybridOptError, check_count, shown
from ...core.rank_group import Peers
from ...policy.treatment import Treatment

__all__ = ["LossWindows", "windows_of"]

KEY = "windows"  # of a state_dict
LONGEST = 2**31
MANY = 10**6  # windows
CURE = "give what optimizer.state_dict() returned"


@dataclass
class LossWindows:
    """The windows so far, and the losses of the one that is on; plain data, which a state_dict holds.

    Args:
        schedule: says how long the next window is.
        begins: the first step of every window, and at last the step after the one that is on.
        total: sum of the losses seen in it, on their device.
        count: how many they are.
        before: mean loss of the window before; None where there is none, or none that is finite.
        told_later: will the loss of the batch that is computed be told after its backward pass?
    """

    schedule: GapSchedule
    begins: list[int]
    total: float | Tensor = 0.0
    count: int = 0
    before: float | None = None
    told_later: bool = False

    def window(self, step: int) -> int:
        """Return the number of the window that a step is in, from 0."""
        return min(bisect_right(self.begins, step), len(self.begins) - 1) - 1

    def span(self, window: int) -> tuple[int, int]:
        """Return the first step of a window and the step after its last; of one that is to come, as if it were on."""
        known = min(window, len(self.begins) - 2)
        return self.begins[known], self.begins[known + 1]

    def observe(self, loss: float | Tensor) -> None:
        """Take note of the loss of a batch; HybridOptError for what is no number."""
        one = isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex()
        if not one and (isinstance(loss, bool) or not isinstance(loss, int | float)):
            raise HybridOptError(f"observe({shown(loss)}) is not allowed; give the loss, one number")
        seen = loss.detach().reshape(()).double() if isinstance(loss, Tensor) else float(loss)
        self.total, self.count = self.total + seen, self.count + 1

    def blind(self, step: int) -> bool:
        """Return whether a loss is missing: none was ever told, or none in a window whose last step this is."""
        return not (self.count or self.told_later) and (len(self.begins) == 2 or step + 1 >= self.begins[-1])

    def refuse(self, step: int) -> NoReturn:
        """Raise HybridOptError, as no loss was told up to `step`."""
        raise HybridOptError(
            "the windows of this policy grow while the loss stalls, and no loss was told in the last "
            f"{step - self.begins[-2]} steps: call optimizer.observe(loss) before loss.backward(), or "
            "optimizer.step(closure); HybridTrainer tells it by itself. With gap=None, as in policy 'frugal', windows "
            "need no loss"
        )

    @contextmanager
    def later(self) -> Iterator[None]:
        """Return a context of backward passes whose loss is told after them."""
        self.told_later = True
        try:
            yield
        finally:
            self.told_later = False

    def take(self, other: "LossWindows") -> None:
        """Become as others are, which `read` has returned."""
        vars(self).update(vars(other))

    def turn(self, step: int, peers: Peers | None) -> None:
        """Begin a new window if the one that is on has no more steps before `step`.

        Args:
            step: that comes next.
            peers: the ranks whose losses count, too; None: there are no others.

        Raises:
            HybridOptError: the schedule returned anything but a number of steps.
        """
        if step < self.begins[-1]:
            return
        loss = _mean(self.total, self.count, peers)
        begin, end = self.begins[-2:]
        gap = self.schedule(end - begin, self.before, loss) if math.isfinite(loss) else end - begin
        check_count(f"{type(self.schedule).__name__} at step {step}", "gap", gap, 1, LONGEST)
        self.begins.append(step + gap)
        self.before, self.total, self.count = loss if math.isfinite(loss) else None, 0.0, 0

    def saved(self) -> dict[str, Any]:
        """Return what goes into the optimizer's state_dict: plain numbers."""
        numbers = {"total": float(self.total), "count": self.count, "before": self.before}
        return {KEY: {"begins": list(self.begins)} | numbers}

    def read(self, state_dict: Mapping[str, Any]) -> "LossWindows":
        """Return the windows of a state_dict; HybridOptError where it has none, or none that a run can have left."""
        where, found = "the saved windows", state_dict.get(KEY)
        if not isinstance(found, dict) or not isinstance(found.get("begins"), list):
            raise HybridOptError(f"the saved state says nothing of windows that the loss has lengthened; {CURE}")
        begins, count, before = found["begins"], found.get("count"), found.get("before")
        check_count(where, "number", len(begins), 2, MANY)
        for step in begins:
            check_count(where, "begins", step, 0, 2 * LONGEST)
        if begins[0] != 0 or any(b <= a for a, b in zip(begins, begins[1:], strict=False)):
            raise HybridOptError(f"{where} begin at {shown(begins)}, which does not rise from 0; {CURE}")
        check_count(where, "count", count, 0, LONGEST)
        total = found.get("total")
        for name, value in {"total": total, "before": 0.0 if before is None else before}.items():
            if type(value) is not float or (name == "before" and not math.isfinite(value)):
                raise HybridOptError(f"{where} have {name}={shown(value)}, which is no loss; {CURE}")
        return LossWindows(self.schedule, list(begins), cast(float, total), cast(int, count), before)


def windows_of(treatments: Iterable[Treatment | None]) -> LossWindows | None:
    """Return the windows of a run that begins, or None where none follows the loss.

    Raises:
        HybridOptError: treatments have different schedules of them.
    """
    found = {(t.gap, t.split.update_gap) for t in treatments if t is not None and t.gap is not None}
    if len(found) > 1:
        raise HybridOptError(
            f"one optimizer has one schedule of windows, and this policy has {sorted(map(str, found))}"
        )
    for schedule, gap in found:
        assert schedule is not None
        return LossWindows(schedule, [0, gap])
    return None


def _mean(total: float | Tensor, count: float, peers: Peers | None) -> float:
    """Return the mean of all losses, of all ranks where there are several."""
    if peers is not None:
        total, count = map(sum, zip(*peers.numbers([float(total), count], "average losses"), strict=True))
    return float(total) / count if count else math.nan
