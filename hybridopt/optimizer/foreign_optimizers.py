"""Notice another optimizer that trains the parameters of a wrapped model, where the policy then does nothing."""

import warnings
import weakref
from collections.abc import Iterable, Set
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from ..core.errors import HybridOptWarning
from .optimizer import HybridOptimizer

__all__ = ["forget", "watch"]


class WrappedModel(Protocol):
    """A wrapped model, as its strategy knows it."""

    model: nn.Module
    policy: Any

    def held(self) -> Iterable[Tensor]:
        """Return the parameters that the strategy's optimizers train, or would train."""


class _ForeignOptimizers:
    """Looks at every optimizer of the process once, when it steps; torch is asked for that only while it is needed."""

    def __init__(self):
        self._wrapped: weakref.WeakSet[WrappedModel] = weakref.WeakSet()
        self._hook: RemovableHandle | None = None
        self._looked: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()  # how many parameters
        self._told: weakref.WeakKeyDictionary[WrappedModel, weakref.WeakSet[Optimizer]] = weakref.WeakKeyDictionary()

    def watch(self, wrapped: WrappedModel) -> None:
        """Look out for optimizers of others, from the next step on, also for those that are known already."""
        self._wrapped.add(wrapped)
        self._looked.clear()
        weakref.finalize(wrapped, self._rest).atexit = False
        self._hook = self._hook or register_optimizer_step_pre_hook(self._before)

    def forget(self, wrapped: WrappedModel) -> None:
        """Look out no more."""
        self._wrapped.discard(wrapped)
        self._rest()

    def _rest(self):
        """Take the hook away where no wrapped model lives."""
        if self._hook is not None and not list(self._wrapped):
            self._hook.remove()
            self._hook = None

    def _before(self, optimizer, args, kwargs):
        """Run before every step of every optimizer."""
        if torch.compiler.is_compiling() or isinstance(optimizer, HybridOptimizer):
            return
        count = sum([len(group["params"]) for group in optimizer.param_groups])
        if self._looked.get(optimizer) == count:
            return
        params = [p for group in optimizer.param_groups for p in group["params"]]
        waits = len(args) < 2 and not kwargs and all(p.grad is None for p in params)  # a closure makes gradients
        if waits:
            return
        self._looked[optimizer] = count
        if not _contains_ours(optimizer):
            for wrapped in list(self._wrapped):
                self._look(wrapped, optimizer, {id(p) for p in params})

    def _look(self, wrapped, optimizer, theirs):
        told = self._told.setdefault(wrapped, weakref.WeakSet())
        if any(type(one) is type(optimizer) and _ids(one).isdisjoint(theirs) for one in told):
            return  # one optimizer a parameter: the first has said it
        if theirs.isdisjoint(map(id, wrapped.model.parameters())):
            return
        ours = set(map(id, wrapped.held()))
        if both := len(ours & theirs):
            told.add(optimizer)
            _warn(wrapped, optimizer, both, len(ours))


def _warn(wrapped: WrappedModel, optimizer: Optimizer, both: int, ours: int) -> None:
    name = type(optimizer).__name__
    warnings.warn(
        f"{name} trains {both} of the {ours} parameters that model.hybrid is to train (of a "
        f"{type(wrapped.model).__name__}), and the policy {type(wrapped.policy).__name__} has no part in that. Take "
        "optimizer = model.hybrid.optimizer(lr=...); with a transformers Trainer HybridTrainer, or Trainer(..., "
        f"optimizers=(model.hybrid.optimizer(lr=...), None)); or model.hybrid.unwrap() where {name} is meant",
        HybridOptWarning,
        stacklevel=5,
    )


def _ids(optimizer: Optimizer) -> Set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _contains_ours(optimizer: Optimizer) -> bool:
    """Tell whether it is a container, such as Lookahead's or SAM's, around a HybridOptimizer that does the work."""
    return any(isinstance(x, HybridOptimizer) for x in vars(optimizer).values())


_others = _ForeignOptimizers()
watch, forget = _others.watch, _others.forget
