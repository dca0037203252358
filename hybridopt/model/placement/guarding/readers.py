"""Whoever reads the weights of a model finds them up to date: its state dict, and copies of it."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....core.contracts import PlacedUnit

__all__ = ["for_readers"]

CatchUp = Callable[[], None]


def for_readers(model: nn.Module, catch_up: CatchUp, units: Sequence[PlacedUnit]) -> list[RemovableHandle]:
    """Call `catch_up` before weights are read for a state dict, a copy or a pickle of the model or a part of it.

    Args:
        model: the whole one.
        catch_up: brings the weights up to date.
        units: of the model.

    Returns:
        What removes the hooks.
    """
    if not units:
        return []
    reader = _Reader(catch_up, units[0].pieces[0].tensor)
    return [module.register_state_dict_pre_hook(reader) for module in model.modules()]


class _Reader:
    """Hooks are copied with the model, a module's own before the modules in it, which is the time to catch up."""

    def __init__(self, catch_up: CatchUp, known: Tensor):
        self._catch_up, self._known = catch_up, known

    def __call__(self, module: nn.Module, prefix: str, keep_vars: bool) -> None:
        self._catch_up()

    def __deepcopy__(self, memo: dict[int, object]) -> "_Idle":
        if id(self._known) not in memo:  # else the copy has weights of its own
            self._catch_up()
        return _Idle()

    def __reduce__(self) -> "tuple[type[_Idle], tuple[()]]":
        self._catch_up()
        return _Idle, ()


class _Idle:
    def __call__(self, *args: Any) -> None:
        """Do nothing."""
