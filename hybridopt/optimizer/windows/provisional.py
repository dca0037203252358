"""Windows that updates under a flag have begun, until the host knows whether the flag is True."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from torch import Tensor

from ...core.contracts import State
from ...execution.state import basis
from .resolved import Resolved

__all__ = ["ProvisionalWindows"]


@dataclass(frozen=True, eq=False)
class _Begun:
    """A window that a parameter's state has entered.

    Args:
        one: the parameter, as it is trained in it.
        raw: its raw state tensors.
        before: the number of the window that the state was in.
        made: names of the raw tensors that were made for it.
    """

    one: Resolved
    raw: State
    before: int
    made: frozenset[str]


class ProvisionalWindows:
    """What a step under flags has drawn: the device undoes that by itself, here the host does."""

    def __init__(self) -> None:
        self._begun: dict[str, _Begun] = {}

    def note(self, one: Resolved, raw: State, before: int, made: frozenset[str]) -> None:
        """Note that a parameter's state enters a window.

        Args:
            one: the parameter, as it is trained in it.
            raw: its raw state tensors; none where another rank has them.
            before: the number of the window that the state was in.
            made: names of the raw tensors that were made for it.
        """
        self._begun[one.name] = _Begun(one, raw, before, made)

    def settle(self, states: MutableMapping[Tensor, dict], bad: Mapping[str, Tensor]) -> None:
        """Let parameters whose flag was False enter their window anew; parts of the others read what they have drawn.

        Args:
            states: of the optimizer, by parameter.
            bad: the parameters whose flag was False, by name.
        """
        for name, begun in self._begun.items():
            if name in bad:
                _take_back(states, bad[name], begun)
            elif begun.raw:
                begun.one.own.part.read_ahead(basis(begun.one.own, begun.raw))
        self._begun.clear()


def _take_back(states: MutableMapping[Tensor, dict], p: Tensor, begun: _Begun) -> None:
    state = states[p]
    state["window"] = begun.before
    for name in begun.made:
        del state[name]
    if not any(isinstance(x, Tensor) for x in state.values()):
        del states[p]
