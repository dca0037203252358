"""What a release is asked for: when gradients are used, and when they are freed."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

__all__ = ["Clipping", "Named", "Release", "ReleasedParameters"]

Named = tuple[str, Tensor]  # a parameter with its name
NOTHING: Mapping[str, Any] = {}


class Clipping(Protocol):
    """The limit on gradient norms that a release is made with."""

    @property
    def limit(self) -> float | None:
        """Return the largest norm; None where gradients are not clipped and their norm is not wanted."""

    @property
    def mode(self) -> str:
        """Return whose norm counts: "global" (all gradients), "tensor" (each), "previous" (all, one step ago)."""

    @property
    def mode_in_force(self) -> str | None:
        """Return the mode; None where nothing is clipped."""

    def scale_(self, grad: Tensor, norm: Tensor, whole: Tensor | float | None) -> None:
        """Clip a gradient in place.

        Args:
            grad: the gradient.
            norm: its own 2-norm, shape [].
            whole: the norm of all gradients; None where it is not known, then its own counts.
        """


class ReleasedParameters(Protocol):
    """What a release asks of the parameters of its optimizer."""

    @property
    def step(self) -> int:
        """Return how many steps were taken."""

    @property
    def previous(self) -> float | None:
        """Return the norm of all gradients one step ago, None where it was not kept."""

    def groups(self) -> list[dict[str, Any]]:
        """Return the param groups of the optimizer, the very list."""

    def params(self) -> Iterable[Named]:
        """Return all parameters, group by group."""

    def waiting(self) -> list[Named]:
        """Return the parameters with a gradient from the backward pass that they take."""

    def due(self) -> list[Named]:
        """Return the parameters that this step updates: by a gradient, or by probes of the loss."""

    def drop_idle(self, name: str, p: Tensor) -> bool:
        """Return whether `p`, of this name, is left alone in the current window, and free its gradient then."""

    def pass_turn(self) -> bool:
        """Return whether a step without any update is one all the same, as the gradients were of idle parameters."""

    def skips(self, name: str) -> bool:
        """Return whether the gradient of `name` is thrown away, as the probe of this step was.

        Raises HybridOptError where a probe must come first and none has.
        """

    def open_windows(self) -> None:
        """Let go of state that the current window no longer needs; called before the first update of a step."""

    def check(self, work: Iterable[Named]) -> tuple[str | None, Mapping[str, Any]]:
        """Check the gradients of parameters before anything is changed.

        Args:
            work: the parameters; their gradients are in `.grad`.

        Returns:
            The name of the first one with NaN or infinity; by name what was found on the way, for `carry_out`.
        """

    def carry_out(
        self, work: Iterable[Named], sound: Tensor | None = None, checks: Mapping[str, Any] = NOTHING
    ) -> None:
        """Update these parameters by their gradients.

        Args:
            work: the parameters.
            sound: bool [] on their device: where it is False, no weight and no state changes, and `take_back` is to be
                told before the next step. None: it is True.
            checks: what `check` has found of their gradients, which are the same since.
        """

    def take_back(self, names: Iterable[str]) -> None:
        """Forget what the host has noted of this step about parameters whose `sound` was False.

        names: of all of them, in one call for all updates of a step that were given flags; there may be none.
        """


class Release(Protocol):
    """When the gradients of an optimizer are used and freed; one file of `optimizer/releases`, one object a run.

    A release subclasses `Release`. The optimizer calls `gradient_ready` for every parameter that `hooks` asks for, as
    soon as the backward pass has completed its gradient, and `finish` in `step()`. Between two steps a release keeps
    nothing that would have to be saved. What planner and integrations ask before there is an optimizer are attributes
    of the class.
    """

    name: str
    """As users write it, and as its file is called."""

    frees_gradients: bool
    """Are gradients used and freed within the backward pass? Then nobody else finds any, to clip or to scale."""

    @abstractmethod
    def __init__(self, clip: Clipping):
        """Make the release of one optimizer, whose gradients are clipped by `clip`."""

    @abstractmethod
    def hold(self) -> AbstractContextManager[None]:
        """Return a context within which gradients are only added up in `.grad`."""

    @abstractmethod
    def hooks(self, idles: bool) -> bool:
        """Return whether `gradient_ready` must be called for a parameter; `idles`: some windows leave it alone."""

    @abstractmethod
    def check(self, work: Iterable[Named]) -> None:
        """Raise HybridOptError, when the optimizer is made, for parameters that this release cannot serve."""

    @abstractmethod
    def gradient_ready(
        self, parameters: ReleasedParameters, name: str, p: Tensor, nonfinite: str, read: bool | None = None
    ) -> None:
        """Take note that the backward pass has completed `p.grad`; called from its threads, one for each device.

        Args:
            parameters: those of the optimizer.
            name: of the parameter.
            p: the parameter; its gradient may be used, and dropped (`p.grad = None`).
            nonfinite: what NaN or infinity in it does: "raise", "skip" or "ignore".
            read: does somebody still read the weight? None: look, which only the hook of its gradient can.
        """

    @abstractmethod
    def measure(self, parameters: ReleasedParameters, loss: Tensor, nonfinite: str) -> Tensor | None:
        """Work out the norm of all gradients of `loss` before they are used, where `finish` would come too late.

        Args:
            parameters: those of the optimizer.
            loss: shape []; its graph is kept for the backward pass that follows.
            nonfinite: as in `gradient_ready`.

        Returns:
            The norm, shape []; None where the step itself works it out.
        """

    def reached(self, parameters: ReleasedParameters) -> set[str]:
        """Return the names of the parameters that got a gradient in this step; `finish` has not been called yet."""
        return {name for name, _ in parameters.waiting()}

    @abstractmethod
    def finish(self, parameters: ReleasedParameters, nonfinite: str) -> tuple[bool, Tensor | None]:
        """End the step: update what still waits for it.

        Args:
            parameters: those of the optimizer.
            nonfinite: as in `gradient_ready`.

        Returns:
            Whether anything was updated since the step before; the norm of all gradients before clipping, shape [],
            None where it was not worked out.
        """

    @abstractmethod
    def drop(self) -> None:
        """End the step without an update; gradients that still exist stay, for `zero_grad`."""

    @property
    @abstractmethod
    def midway(self) -> bool:
        """Return whether some parameters were updated and the step is not over: then nothing is saved or probed."""
