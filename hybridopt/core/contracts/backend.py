"""What a backend is asked for: one way to carry out updates."""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor

__all__ = ["Backend", "RepeatedCheck", "RepeatedUpdate"]

TaskT = TypeVar("TaskT", contravariant=True)  # execution.update_task.Task, which this room cannot import


class RepeatedCheck(Protocol):
    """A check of several gradients that is the same in many steps: only their addresses and numbers are others.

    They have the dtypes, sizes and device that they had: `execution` sees to that.
    """

    @abstractmethod
    def finite(self, grads: Sequence[Tensor]) -> bool:
        """Return whether no gradient has NaN or infinity; nothing is changed."""


class RepeatedUpdate(Protocol[TaskT]):
    """Updates of several parameters that are the same in many steps: only gradients and numbers are others.

    Weights and state lie where they lay, in the same form, and gradients have the form that they had: `execution`
    sees to that. Numbers are the same for all of these parameters.
    """

    def holds(self, one: TaskT, raw: Mapping[str, Sequence[Tensor]]) -> bool:
        """Return whether it still does what is asked for; nothing is changed.

        Args:
            one: the task of the first parameter with the numbers of this step, without its tensors.
            raw: the state of all parameters, by name.
        """
        return True

    @abstractmethod
    def run(
        self, one: TaskT, params: Sequence[Tensor], grads: Sequence[Tensor], raw: Mapping[str, Sequence[Tensor]]
    ) -> None:
        """Update the parameters.

        Args:
            one: as in `holds`.
            params: the parameters, changed in place; shapes are their own, not those of jobs.
            grads: their gradients.
            raw: as in `holds`; changed in place.
        """


class Backend(Protocol[TaskT]):
    """One way to carry out updates; one file of `execution/backends`, without state, made once.

    A backend subclasses `Backend[Task]`, with the Task of `execution.update_task`. Whatever carries it out, an update
    is what `execution.update.update` computes, the eager one: the same bits, or within `tolerance`.
    `execution.dispatch` asks the backends in the order of their `rank`; the first that fits a task carries it out.
    """

    name: str
    """As its file is called."""

    rank: int
    """The lowest is asked first; the eager backend, which fits every task, is the last."""

    devices: frozenset[str] | None = None
    """The types of devices that it works on, such as "cuda"; None: all."""

    compiles: bool = False
    """Does it compile when it runs, and so wait for compile=True?"""

    worth_from: int = 0
    """Of one that compiles: elements of an optimizer on a CPU from which on compile="auto" is enough."""

    in_blocks: bool = False
    """Is it given `task.in_blocks()`, with a block of the codec in every row?"""

    heeds_sound: bool = False
    """Does it leave everything as it is where the task's `sound` turns out to be False on the device?

    Of one that does not, `execution.dispatch` copies all that it writes, and puts it back.
    """

    heeds_row: bool = False
    """Does it round rows at random as the task's `row` says, where they are not the first of their parameter?"""

    largest_stacked: int = 0
    """Elements of the largest parameter that it updates together with others; 0: it stacks none."""

    @abstractmethod
    def fits(self, task: TaskT) -> bool:
        """Return whether it can carry out this task; it is asked on its `devices` only.

        Tensors may be without memory (on meta), so only their type, shape, dtype and layout may be looked at.
        """

    @abstractmethod
    def run(self, tasks: Iterable[TaskT]) -> None:
        """Carry out tasks that fit: change their parameters and state in place."""

    def prepare(self, tasks: Sequence[TaskT]) -> None:
        """Begin to make what it needs for steps of tasks like these, such as kernels; wait for nothing.

        tasks: those that fit, and that no backend before it takes; there may be none.
        """
        return None

    def check_gradients(self, gradients: Sequence[Any]) -> Mapping[str, Any]:
        """Check gradients before anything is changed, of a backend that reads all of them at once.

        Args:
            gradients: `execution.gradient_check.UncheckedGradient`, on its `devices`.

        Returns:
            By name the `GradientCheck` of some of them, those that it can read. None of them unless it says so.
        """
        return {}

    def repeat_check(self, gradients: Sequence[Tensor]) -> RepeatedCheck | None:
        """Return a check of gradients of this form, for many steps, which finds no more than whether they are finite.

        gradients: on its `devices`, readable by their addresses. Returns None unless it says so.
        """
        return None

    @abstractmethod
    def tolerance(self, task: TaskT) -> float:
        """Return how far a result may be off; 0.0: the same bits as the eager update.

        Relative to the largest number of the tensor that the update changes; numbers that are rounded to a grid
        (bfloat16, 8-bit codes) may besides lie one step of it away, where the two sides of a rounding differ.
        """

    @abstractmethod
    def temporaries(self, tasks: Sequence[TaskT], measured: Callable[[], int]) -> int:
        """Return the bytes that `run(tasks)` takes beyond parameters, gradients and state.

        Args:
            tasks: one that fits; of a backend that stacks, all that are run together. Their tensors have no memory.
            measured: runs these tasks by this backend and returns the most bytes that were alive besides theirs.
        """

    def together(self, tasks: Sequence[TaskT], alone: int) -> int:
        """Return the bytes that one call of `run` with all of these tasks takes, of a backend that does not stack.

        Args:
            tasks: those of a step. Their tensors have no memory.
            alone: the most that `run` takes for any of them by itself.
        """
        return alone

    def kind(self, task: TaskT) -> Hashable | None:
        """Return what tasks that it has run must have in common to be repeated together; None: they are not repeated.

        They have the same names of state, dtypes and numbers in common already.
        """
        return None

    def repeat(self, tasks: Sequence[TaskT]) -> RepeatedUpdate[TaskT]:
        """Return what makes the updates of tasks of one kind again in later steps; not asked where `kind` is None."""
        name = type(self).__name__
        raise NotImplementedError(f"{name} repeats no updates")
