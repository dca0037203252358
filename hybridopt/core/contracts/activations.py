"""What schemes of activations are asked for: what is kept of the inputs of trained linear layers."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

__all__ = ["Activations", "Uniform"]

Uniform = Callable[[int], Tensor]  # so many numbers of [0, 1): float64 [count], on the device of the input


class Activations(Protocol):
    """What is kept of the input of a linear layer until its backward pass; one file of `model/activations/schemes`.

    The gradient of a weight [out, in] is the product of the gradients of the outputs, [rows, out], and the inputs,
    [rows, in]: only for that is an input kept. The gradients of inputs and biases stay exact, whatever is kept.
    A scheme is a frozen dataclass. It draws random numbers from what it is given and from nowhere else.
    """

    @abstractmethod
    def exact(self, rows: int, inputs: int, outputs: int) -> bool:
        """Return whether a layer keeps its input as it is, as there is nothing to save.

        Args:
            rows: of the input, such as tokens.
            inputs: features of the input.
            outputs: features of the output.
        """

    @abstractmethod
    def keep(self, x: Tensor, uniform: Uniform) -> tuple[Tensor, ...]:
        """Return tensors that stand for an input until the backward pass, without its memory.

        Args:
            x: [rows, in], detached.
            uniform: draws random numbers, others with every call.
        """

    @abstractmethod
    def product(self, kept: Sequence[Tensor], gradient: Tensor) -> Tensor:
        """Return the gradient of the weight: [out, in].

        Args:
            kept: what `keep` has returned, floats in the dtype that the layer computes in.
            gradient: of the outputs, [rows, out].
        """
