"""What a rule may ask of the parameter that it is fitted to."""

from typing import Protocol

from .values import Shape

__all__ = ["BlockLayout", "ParameterInfo"]


class BlockLayout(Protocol):
    """Which output neurons of a weight share a Hessian block (Zhang et al. 2024, Adam-mini, Alg. 3)."""

    @property
    def axis(self) -> str:
        """Where the neurons lie: "rows", or "columns" of a weight that is stored transposed."""

    @property
    def parts(self) -> tuple[tuple[str, int, int], ...]:
        """The parts along the axis, in order: (kind, blocks, lines of each); () if every line is a block."""

    @property
    def groups(self) -> int:
        """How many times over the parts follow each other."""


class ParameterInfo(Protocol):
    """One parameter of a model, known before it is there."""

    @property
    def name(self) -> str:
        """Its name in the model."""

    @property
    def role(self) -> str:
        """What it is for: "linear", "embedding", "norm" ..."""

    @property
    def shape(self) -> Shape:
        """Its shape, of a quantized one before packing."""

    @property
    def partition(self) -> BlockLayout:
        """Its Hessian blocks."""
