"""Updates for which ranks have to meet, collected so that they meet as seldom as possible."""

from collections.abc import Callable

from torch import Tensor

from ..update_task import Task
from .gathered import Gathered, run_whole
from .rounds import run_rounds
from .rows import RankRows

__all__ = ["Waiting"]


class Waiting:
    """Sharded parameters of one step; what is not contiguous is updated in a copy, which is written back."""

    def __init__(self) -> None:
        self._rounds: list[tuple[Task, RankRows]] = []
        self._wholes: list[Gathered] = []
        self._copies: list[tuple[Tensor, Tensor]] = []

    def add_rounds(self, task: Task, rows: RankRows, live: Tensor) -> None:
        """Take a task whose rules look at the whole matrix in rounds.

        Args:
            task: of this rank's rows.
            rows: who has which.
            live: this rank's rows of the weight.
        """
        self._rounds.append((task, rows))
        self._copies.append((live, task.param))

    def add_whole(self, whole: Gathered, live: Tensor) -> None:
        """Take a parameter that one rank updates; `live`: this rank's rows of the weight."""
        self._wholes.append(whole)
        self._copies.append((live, whole.param))

    def carry_out(self, run: Callable[[list[Task]], object]) -> None:
        """Carry out everything; ranks must have taken the same, in the same order. `run` carries out plain tasks."""
        if self._rounds:
            run_rounds(self._rounds)
        if self._wholes:
            run_whole(self._wholes, run)
        for live, param in self._copies:
            if live.data_ptr() != param.data_ptr():
                live.copy_(param.view(live.shape))
