"""What becomes of a placed model when it is copied or pickled: an ordinary one, with all its weights in memory."""

import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor, nn

from ....core.errors import HybridOptWarning

__all__ = ["Copied", "Overridden"]


class Copied:
    """What belongs to a placed model alone, such as a hook: in copies and pickles of that it does nothing.

    Args:
        known: a tensor of the model.
        first: is it the one that tells of a copy?
    """

    def __init__(self, known: Tensor, first: bool = False):
        self._known, self._first = known, first

    def __deepcopy__(self, memo: dict[int, object]) -> "_Idle":
        if id(self._known) not in memo:  # else the weights are somebody's own, such as some without memory
            self._tell()
        return _Idle()

    def __reduce__(self) -> "tuple[type[_Idle], tuple[()]]":
        self._tell()
        return _Idle, ()

    def _tell(self) -> None:
        if self._first:
            warnings.warn(
                "the copy of a placed model is not placed: all its weights are in memory. Load another one with "
                "placement=... if that is not meant",
                HybridOptWarning,
                stacklevel=2,
            )


class Overridden:
    """A method of one module that something else is called for; in copies of the module it is as it was.

    Args:
        module: whose method it is.
        name: of the method.
        around: is called with the method as it was, and with the arguments of every call.
    """

    def __init__(self, module: nn.Module, name: str, around: Callable[..., Any]):
        self._module, self._name, self._around = module, name, around
        vars(module)[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what is called in the place of the method."""
        return self._around(_plain(self._module, self._name), *args, **kwargs)

    def remove(self) -> None:
        """Let the method be as it was."""
        if vars(self._module).get(self._name) is self:
            del vars(self._module)[self._name]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _plain(memo.get(id(self._module), self._module), self._name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[nn.Module, str]]:
        return _plain, (self._module, self._name)


def _plain(module: nn.Module, name: str) -> MethodType:
    return MethodType(getattr(type(module), name), module)


class _Idle:
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""
