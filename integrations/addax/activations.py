"""Measure the memory of a model's activations on its own loss, and extrapolate to any batch size and length."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybridopt.core.errors import HybridOptError, check_count
from hybridopt.model.quantization.sizes import weight_bytes

from .checkpointing import checkpointing, set_checkpointing
from .length_costs import Cost, LengthCosts

__all__ = ["RowBatches", "forward_bytes", "gradient_bytes", "measure", "saved_bytes"]

Loss = Callable[[], Tensor]
LossAt = Callable[[int, int], Tensor]  # of a batch of that size and length
KEEPS_ITS_INPUT = "Linear8bitLt"  # for backward, as an attribute, where no hook for saved tensors sees it
BLOCK = "GradientCheckpointingLayer"  # what transformers recomputes as one piece


@dataclass(frozen=True)
class RowBatches:
    """Batches of any size and length, cut from one row, which must be the longest of the data.

    Args:
        row: the row; every value in it that has as many entries as the row has tokens is cut, others are kept whole.
        length: tokens of the row.
        collate: makes a batch of a list of rows.
    """

    row: dict[str, Any]
    length: int
    collate: Callable[[list], Any]

    def __call__(self, batch: int, length: int) -> Any:
        """Return a batch of `batch` equal rows, the first `length` tokens of the row."""
        return self.collate([{key: self._cut(value, length) for key, value in self.row.items()} for _ in range(batch)])

    def _cut(self, value: Any, length: int) -> Any:
        whole = hasattr(value, "__len__") and getattr(value, "shape", True) != ()
        return value[:length] if whole and not isinstance(value, str) and len(value) == self.length else value


def measure(model: nn.Module, loss_at: LossAt, longest: int) -> LengthCosts:
    """Measure what training a model takes by forward passes alone.

    Modes, buffers and random numbers are afterwards as they were. Activations are freed as they come, so this takes
    hardly more memory than evaluation does.

    Args:
        model: on the device where it is to be trained, with requires_grad as in training.
        loss_at: the training loss of a batch; called with (batch, length), at most over `longest` tokens in all.
        longest: tokens of the longest row.

    Raises:
        HybridOptError: no parameter requires gradients, or the loss is no tensor of one number that depends on one.
    """
    check_count("measure", "longest", longest, 1)
    largest, trained = gradient_bytes(model)
    passes = _Passes(model, loss_at)
    with _undisturbed(model):
        now = checkpointing(model)
        plain = Cost.measured(passes.plain, longest)
        can = now or (getattr(model, "supports_gradient_checkpointing", False) and not _samples(model))
        checkpointed = Cost.measured(passes.checkpointed, longest) if can else None
        probe = Cost.measured(passes.forward, longest)
    gradient = checkpointed if now and checkpointed is not None else plain
    return LengthCosts(weight_bytes(model), largest, trained, gradient, probe, checkpointed, longest)


def gradient_bytes(model: nn.Module) -> tuple[int, int]:
    """Return the bytes of the largest trained tensor, and of all together.

    Raises:
        HybridOptError: no parameter requires gradients.
    """
    trained = [p.nbytes for p in model.parameters() if p.requires_grad]
    if not trained:
        raise HybridOptError("no parameter of the model requires gradients; unfreeze some, or add an adapter")
    return max(trained), sum(trained)


@dataclass(frozen=True)
class _Passes:
    """Bytes of activations of one pass over a batch: each method takes (batch, length)."""

    model: nn.Module
    loss_at: LossAt

    def forward(self, batch: int, length: int) -> int:
        return forward_bytes(self.model, lambda: self.loss_at(batch, length))

    def plain(self, batch: int, length: int) -> int:
        return self._saved(batch, length, False) + self.forward(batch, length)

    def checkpointed(self, batch: int, length: int) -> float:
        whole, outside = self._saved(batch, length, False), self._saved(batch, length, True)
        blocks = sum(BLOCK in (kind.__name__ for kind in type(m).__mro__) for m in self.model.modules())
        block = (whole - outside) / max(1, blocks)
        return outside + max(2 * block, self.forward(batch, length))

    def _saved(self, batch: int, length: int, checkpointing: bool) -> int:
        with set_checkpointing(self.model, checkpointing):
            return saved_bytes(self.model, lambda: self.loss_at(batch, length))


def saved_bytes(model: nn.Module, loss: Loss) -> int:
    """Return the bytes that autograd saves in a forward pass for the backward pass.

    Each storage counts once; those of parameters and buffers do not count.

    Args:
        model: the model whose parameters and buffers are left out.
        loss: runs a forward pass and returns its loss, a tensor of one number.
    """
    own, sizes = _own(model), dict[StorageWeakRef, int]()

    def pack(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if (ref := StorageWeakRef(storage)) not in own:  # keeps the storage's address, so it is never another's
            sizes[ref] = storage.nbytes()

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs and inputs[0].requires_grad:
            pack(inputs[0])

    with ExitStack() as stack:
        for module in model.modules():
            if type(module).__name__ == KEEPS_ITS_INPUT:
                stack.callback(module.register_forward_pre_hook(look).remove)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed))  # never unpacked
        _check(loss())
    return sum(sizes.values())


def forward_bytes(model: nn.Module, loss: Loss) -> int:
    """Return the most bytes of tensors alive at once in a forward pass without gradients.

    Parameters and buffers do not count, and scratch memory inside a kernel is not seen.

    Args:
        model: the model whose parameters and buffers are left out.
        loss: runs a forward pass and returns its loss.
    """
    with torch.no_grad(), _Alive(_own(model)) as alive:
        loss()
    return alive.most


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors that operations return, until they are freed: `now`, and at most `most` so far."""

    def __init__(self, known: set[StorageWeakRef]):
        super().__init__()
        self.known, self.now, self.most = known, 0, 0

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for storage in (x.untyped_storage() for x in tree_leaves(out) if isinstance(x, Tensor)):
            if (ref := StorageWeakRef(storage)) not in self.known:
                self.known.add(ref)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return out

    def _add(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)


def _own(model: nn.Module) -> set[StorageWeakRef]:
    tensors = (*model.parameters(), *model.buffers())
    return {StorageWeakRef(tensor.untyped_storage()) for tensor in tensors}


def _check(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise HybridOptError(
            f"the loss is {loss!r}; it must be a tensor of one number that depends on trained weights"
        )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Set training mode within; afterwards restore modes, buffers and random numbers."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        try:
            model.train()
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def _samples(model: nn.Module) -> bool:
    """Return whether trained linear layers keep a part of their inputs, which goes with no checkpointing."""
    strategy: Any = vars(model).get("hybrid")
    return strategy is not None and strategy.activations is not None
