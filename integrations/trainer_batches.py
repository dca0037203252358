"""One preparation of a batch for its probes and its backward pass, and a Trainer's step without a backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import Trainer

from hybridopt.optimizer.optimizer import HybridOptimizer

__all__ = ["PreparedBatches", "makes_batches"]

if TYPE_CHECKING:
    Mixed: TypeAlias = Trainer  # with which the mixin is mixed: what it calls is there
else:
    Mixed = object


class PreparedBatches(Mixed):
    """Prepares every batch once, whoever asks: a trainer that generates text in doing so must not do it again."""

    _prepared: Any = None  # the batch that is prepared already, within a step

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Return a batch as the Trainer prepares it; one that is prepared already, as it is."""
        return inputs if inputs is self._prepared else super()._prepare_inputs(inputs)

    @contextmanager
    def _prepared_already(self, batch: Any) -> Iterator[None]:
        """Leave `batch` as it is within this context."""
        self._prepared = batch
        try:
            yield
        finally:
            self._prepared = None

    @contextmanager
    def _loss_is(self, value: float) -> Iterator[None]:
        """Within this context the loss of any batch is `value`, and its backward pass reaches no weight.

        So the step of a trainer can run for what it does beside training: count, choose the next completions.
        """
        loss = torch.tensor(value, device=self.args.device, requires_grad=True)
        self.__dict__["compute_loss"] = lambda *args, **kwargs: loss * 1  # on the object: before that of any class
        try:
            yield
        finally:
            del self.__dict__["compute_loss"]

    @contextmanager
    def _tells(self, optimizer: HybridOptimizer | None) -> Iterator[None]:
        """Within this context an optimizer whose windows follow the loss is told that of every batch."""
        if optimizer is None or not optimizer.watches:
            yield
            return
        own = self.compute_loss

        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            found = own(*args, **kwargs)
            optimizer.observe(found[0] if isinstance(found, tuple) else found)
            return found

        self.__dict__["compute_loss"] = compute_loss  # on the object: before that of any class
        try:
            yield
        finally:
            del self.__dict__["compute_loss"]


def makes_batches(kind: type) -> bool:
    """Return whether trainers of this class train on what they make of their rows, as those that generate text do."""
    classes = [one for one in kind.__mro__ if issubclass(one, Trainer) and one is not Trainer]
    return all(any(name in vars(one) for one in classes) for name in ("_prepare_inputs", "get_train_dataloader"))
