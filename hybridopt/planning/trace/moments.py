"""What is noted of a simulated pass: the most bytes of each interval, and the events within it."""

from dataclasses import dataclass

__all__ = ["Event", "Limit", "Moment", "Stage"]

Stage = tuple[str] | tuple[str, int]  # where in a step: ("start",), or ("forward", i) for layer i


@dataclass(frozen=True)
class Event:
    """What was alive after one operation of an interval.

    Args:
        name: of the operation; "" for the beginning of the interval.
        forward: as of a Moment.
        backward: as of a Moment.
        gradient: as of a Moment.
    """

    name: str
    forward: int
    backward: int
    gradient: int = 0


@dataclass(frozen=True)
class Limit:
    """How long a simulated pass may be, and what is kept of it.

    Args:
        operations: the most of them; None: any number.
        recorded: are all events noted, beside the largest of each interval?
    """

    operations: int | None = None
    recorded: bool = False

    class Reached(Exception):
        """More operations than the limit has; what has run so far is lost."""


@dataclass(frozen=True)
class Moment:
    """The most bytes that were alive at once in an interval of a step.

    Args:
        stage: where in the step the interval lies.
        forward: bytes that the forward pass made.
        backward: bytes that were made after it.
        done: name of the parameter whose gradient ended the interval; None if no gradient did.
        gradient: how many bytes of `backward` were that gradient.
        left: bytes alive at the end of the interval, made in the forward pass and after it.
        events: all operations of the interval, if they are recorded.
    """

    stage: Stage
    forward: float
    backward: float
    done: str | None = None
    gradient: float = 0
    left: tuple[float, float] = (0, 0)
    events: tuple[Event, ...] = ()

    @property
    def total(self) -> float:
        """Return all bytes that were alive: `forward` + `backward`."""
        return self.forward + self.backward
