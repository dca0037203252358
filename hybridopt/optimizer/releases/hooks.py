"""The hooks by which an optimizer learns of gradients as the backward pass makes them."""

import weakref

from torch import Tensor

from ...core.errors import HybridOptError

__all__ = ["Hooks"]


class Hooks:
    """One hook a parameter. They hold their optimizer weakly, so that neither keeps the other alive."""

    def __init__(self, optimizer):
        self._optimizer = weakref.ref(optimizer)
        self._on: dict[str, tuple[Tensor, object]] = {}

    def put(self, wanted: dict[str, Tensor], alone: bool) -> None:
        """Watch exactly these parameters; alone: no other optimizer may update them within backward passes."""
        for name, p in wanted.items():
            _check_others(name, p, self._optimizer, alone)
        for name in [n for n, (p, _) in self._on.items() if wanted.get(n) is not p]:
            self._on.pop(name)[1].remove()
        for name, p in wanted.items():
            if name not in self._on:
                hook = p.register_post_accumulate_grad_hook(Hook(self._optimizer, name, alone))
                self._on[name] = p, hook

    def stale(self, wanted: dict[str, Tensor]) -> bool:
        """Would `put` change anything?"""
        return wanted.keys() != self._on.keys() or any(self._on[n][0] is not p for n, p in wanted.items())

    def remove(self) -> None:
        """Take all off."""
        self.put({}, False)


class Hook:
    """Tell the optimizer."""

    def __init__(self, optimizer: weakref.ref, name: str, alone: bool):
        self.optimizer, self._name, self.alone = optimizer, name, alone

    def __call__(self, p: Tensor) -> None:
        """A gradient is complete."""
        optimizer = self.optimizer()
        if optimizer is not None:
            optimizer.receive(self._name, p)


def _check_others(name, p, mine, alone):
    for hook in (p._post_accumulate_grad_hooks or {}).values():
        if isinstance(hook, Hook) and hook.optimizer is not mine and hook.optimizer() and (alone or hook.alone):
            raise HybridOptError(
                f"parameter {name!r} is trained by another optimizer already, and release='fused' leaves gradients to "
                "one only; call the other's unhook() first"
            )
