"""The hooks that tell an optimizer of gradients as the backward pass completes them."""

import weakref

from torch import Tensor

from ..core.errors import HybridOptError

__all__ = ["Hooks"]


class Hooks:
    """Register one hook a parameter; they hold their optimizer weakly, so that neither keeps the other alive."""

    def __init__(self, optimizer):
        self._optimizer = weakref.ref(optimizer)
        self._on: dict[str, tuple[Tensor, object]] = {}

    def put(self, wanted: dict[str, Tensor], alone: bool) -> None:
        """Watch exactly these parameters.

        Args:
            wanted: name to parameter.
            alone: may no other optimizer watch them, as this one frees their gradients?

        Raises:
            HybridOptError: another optimizer watches one of them, and either frees gradients.
        """
        for name, p in wanted.items():
            _check_others(name, p, self._optimizer, alone)
        for name in [n for n, (p, _) in self._on.items() if wanted.get(n) is not p]:
            self._on.pop(name)[1].remove()
        for name, p in wanted.items():
            if name not in self._on:
                hook = p.register_post_accumulate_grad_hook(Hook(self._optimizer, name, alone))
                self._on[name] = p, hook

    def stale(self, wanted: dict[str, Tensor]) -> bool:
        """Return whether other parameters are watched than the `wanted` ones, so that `put` would change hooks."""
        return wanted.keys() != self._on.keys() or any(self._on[n][0] is not p for n, p in wanted.items())

    def remove(self) -> None:
        """Remove all hooks."""
        self.put({}, False)


class Hook:
    """A post_accumulate_grad hook of one parameter: calls `optimizer.gradient_ready(name, p)`."""

    def __init__(self, optimizer: weakref.ref, name: str, alone: bool):
        self.optimizer, self._name, self.alone = optimizer, name, alone

    def __call__(self, p: Tensor) -> None:
        """Tell the optimizer, if it still exists, that `p.grad` is complete."""
        optimizer = self.optimizer()
        if optimizer is not None:
            optimizer.gradient_ready(self._name, p)


def _check_others(name, p, mine, alone):
    for hook in (p._post_accumulate_grad_hooks or {}).values():
        if isinstance(hook, Hook) and hook.optimizer is not mine and hook.optimizer() and (alone or hook.alone):
            raise HybridOptError(
                f"parameter {name!r} is trained by another optimizer already, and release='fused' leaves gradients to "
                "one only; call the other's unhook() first"
            )
