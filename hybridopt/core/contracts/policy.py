"""What a policy is asked for."""

from dataclasses import fields, is_dataclass
from typing import Protocol, TypeVar

from .rates import StartFrom

__all__ = ["Ready"]

R = TypeVar("R")


class Ready(Protocol[R]):
    """A policy, ready to be used: routes from roles and names to treatments. A frozen dataclass.

    Own policies are instances of `hybridopt.Policy`, which needs nothing but routes.
    """

    routes: tuple[R, ...]
    """The routes in order; the first that fits a parameter wins."""

    lr: float | None = None
    """The learning rate that its options say; None: they say none."""

    start_from: StartFrom | None = None
    """The learning rates to start from where none is given; None: nothing is known, and 1e-3 is taken."""

    opens_scales: bool = False
    """Does it train the scales of quantized weights? Then they are opened for training."""

    def options(self) -> tuple[str, ...]:
        """Return the names of its options, which param groups cannot have."""
        return tuple(f.name for f in fields(self)) if is_dataclass(self) else ()
