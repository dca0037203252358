"""What a model's activations cost: measured on its own loss, then known for batches of any size and length."""

import weakref
from collections.abc import Callable, Iterator
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

from .length_costs import Cost, LengthCosts

__all__ = ["RowBatches", "forward_bytes", "gradient_bytes", "measure", "saved_bytes"]

Loss = Callable[[], Tensor]
LossAt = Callable[[int, int], Tensor]  # of a batch of that size and length
KEEPS_ITS_INPUT = "Linear8bitLt"  # for backward, as an attribute, where no hook for saved tensors sees it
BLOCK = "GradientCheckpointingLayer"  # what transformers recomputes as one piece


@dataclass(frozen=True)
class RowBatches:
    """Batches of any size and length, cut from one row, which must be the longest of the data.

    Every value of the row that is as long as the row itself is cut; `collate` makes a batch of a list of rows.
    """

    row: dict[str, Any]
    length: int
    collate: Callable[[list], Any]

    def __call__(self, batch: int, length: int) -> Any:
        """A batch of equal rows."""
        return self.collate([{key: self._cut(value, length) for key, value in self.row.items()} for _ in range(batch)])

    def _cut(self, value, length):
        whole = hasattr(value, "__len__") and getattr(value, "shape", True) != ()
        return value[:length] if whole and not isinstance(value, str) and len(value) == self.length else value


def measure(model: nn.Module, loss_at: LossAt, longest: int) -> LengthCosts:
    """Measure by forward passes alone, at most over `longest` tokens at once; nothing of the model changes.

    loss_at: the loss of training, of a batch of the given size and length. Activations are freed as they come, so
    this takes hardly more memory than evaluation does. Raises HybridOptError if nothing is trained.
    """
    check_count("measure", "longest", longest, 1)
    largest, trained = gradient_bytes(model)
    passes = _Passes(model, loss_at)
    with _undisturbed(model):
        now = _checkpointing(model)
        plain = Cost.measured(passes.plain, longest)
        can = now or getattr(model, "supports_gradient_checkpointing", False)
        checkpointed = Cost.measured(passes.checkpointed, longest) if can else None
        probe = Cost.measured(passes.forward, longest)
    weights, gradient = weight_bytes(model), checkpointed if now else plain
    return LengthCosts(weights, largest, trained, gradient, probe, checkpointed, longest)


def gradient_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of the largest trained tensor, and of all together; raises HybridOptError if there is none."""
    trained = [p.nbytes for p in model.parameters() if p.requires_grad]
    if not trained:
        raise HybridOptError("no parameter of the model requires gradients; unfreeze some, or add an adapter")
    return max(trained), sum(trained)


@dataclass(frozen=True)
class _Passes:
    """What single passes of a batch need, in bytes."""

    model: nn.Module
    loss_at: LossAt

    def forward(self, batch, length):
        return forward_bytes(self.model, lambda: self.loss_at(batch, length))

    def plain(self, batch, length):
        return self._saved(batch, length, False) + self.forward(batch, length)

    def checkpointed(self, batch, length):
        whole, outside = self._saved(batch, length, False), self._saved(batch, length, True)
        blocks = sum(BLOCK in (kind.__name__ for kind in type(m).__mro__) for m in self.model.modules())
        block = (whole - outside) / max(1, blocks)
        return outside + max(2 * block, self.forward(batch, length))

    def _saved(self, batch, length, checkpointing):
        with _set_checkpointing(self.model, checkpointing):
            return saved_bytes(self.model, lambda: self.loss_at(batch, length))


def saved_bytes(model: nn.Module, loss: Loss) -> int:
    """Bytes that autograd keeps of a forward pass: each storage once, those of parameters and buffers left out."""
    own, sizes = _own(model), {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if (ref := StorageWeakRef(storage)) not in own:  # keeps the storage's address, so it is never another's
            sizes[ref] = storage.nbytes()

    def look(_, inputs):
        if inputs and inputs[0].requires_grad:
            pack(inputs[0])

    with ExitStack() as stack:
        for module in model.modules():
            if type(module).__name__ == KEEPS_ITS_INPUT:
                stack.callback(module.register_forward_pre_hook(look).remove)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda _: None))
        _check(loss())
    return sum(sizes.values())


def forward_bytes(model: nn.Module, loss: Loss) -> int:
    """The most bytes alive at once in a forward pass without gradients, those of parameters and buffers left out.

    What single kernels take inside of themselves is not seen.
    """
    with torch.no_grad(), _Alive(_own(model)) as alive:
        loss()
    return alive.most


class _Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that operations return, until they are freed."""

    def __init__(self, known: set[StorageWeakRef]):
        super().__init__()
        self.known, self.now, self.most = known, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for storage in (x.untyped_storage() for x in tree_leaves(out) if isinstance(x, Tensor)):
            if (ref := StorageWeakRef(storage)) not in self.known:
                self.known.add(ref)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return out

    def _add(self, size):
        self.now += size
        self.most = max(self.most, self.now)


def _own(model):
    tensors = (*model.parameters(), *model.buffers())
    return {StorageWeakRef(tensor.untyped_storage()) for tensor in tensors}


def _check(loss):
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise HybridOptError(
            f"the loss is {loss!r}; it must be a tensor of one number that depends on trained weights"
        )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Training mode within; afterwards modes, buffers and random numbers are as they were."""
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


def _checkpointing(model):
    """The modules that have gradient checkpointing on."""
    return [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]


@contextmanager
def _set_checkpointing(model, on: bool) -> Iterator[None]:
    """Gradient checkpointing on or off for a while."""
    was = _checkpointing(model)
    if on and not was:
        _switch(model, "enable")
    for module in [] if on else was:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        if on and not was:
            _switch(model, "disable")
        for module in was:
            module.gradient_checkpointing = True


def _switch(model, what):
    """By the name that transformers has for it: the older one warns."""
    names = (f"activation_checkpointing_{what}", f"gradient_checkpointing_{what}")
    next(getattr(model, name) for name in names if hasattr(model, name))()
