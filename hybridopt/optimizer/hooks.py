"""The hooks that tell of gradients as the backward pass completes them."""

import weakref

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..core.errors import HybridOptError

__all__ = ["Hooks"]


class Hooks:
    """Register one hook a parameter; they hold the `BackwardPass` weakly, so that neither keeps the other alive."""

    def __init__(self, backward):
        self._backward = weakref.ref(backward)
        self._on: dict[str, tuple[Tensor, RemovableHandle]] = {}

    def put(self, wanted: dict[str, Tensor], alone: bool) -> None:
        """Watch exactly these parameters.

        Args:
            wanted: name to parameter.
            alone: may no other optimizer watch them, as this one frees their gradients?

        Raises:
            HybridOptError: another optimizer watches one of them, and either frees gradients.
        """
        for name, p in wanted.items():
            _check_others(name, p, self._backward, alone)
        for name in [n for n, (p, _) in self._on.items() if wanted.get(n) is not p]:
            self._on.pop(name)[1].remove()
        for name, p in wanted.items():
            if name not in self._on:
                hook = p.register_post_accumulate_grad_hook(Hook(self._backward, name, alone))
                self._on[name] = p, hook

    def stale(self, wanted: dict[str, Tensor]) -> bool:
        """Return whether other parameters are watched than the `wanted` ones, so that `put` would change hooks."""
        return wanted.keys() != self._on.keys() or any(self._on[n][0] is not p for n, p in wanted.items())

    def remove(self) -> None:
        """Remove all hooks."""
        self.put({}, False)


class Hook:
    """A post_accumulate_grad hook of one parameter: calls `BackwardPass.ready(name, p)`.

    Args:
        backward: of the optimizer whose hook it is.
        name: of the parameter.
        alone: may no other optimizer watch the parameter?
    """

    def __init__(self, backward: weakref.ref, name: str, alone: bool):
        self.backward, self._name, self.alone = backward, name, alone

    def __call__(self, p: Tensor) -> None:
        """Tell the optimizer, if it still exists, that `p.grad` is complete."""
        backward = self.backward()
        if backward is not None:
            backward.ready(self._name, p)


def _check_others(name, p, mine, alone):
    for hook in (p._post_accumulate_grad_hooks or {}).values():
        if isinstance(hook, Hook) and hook.backward is not mine and hook.backward() and (alone or hook.alone):
            raise HybridOptError(
                f"parameter {name!r} is trained by another optimizer already, and release='fused' leaves gradients to "
                "one only; call the other's unhook() first"
            )
