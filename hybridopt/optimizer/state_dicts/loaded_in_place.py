"""State of parameters that torch.distributed.checkpoint loads, and then leaves out."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...model.fsdp.sharded_tensors import local
from ..groups.tags import named

__all__ = ["LoadedInPlace"]


class LoadedInPlace:
    """What a state dict gave out of parameters with requires_grad=False, which only probes train.

    torch.distributed.checkpoint loads into the tensors of a state dict that it has asked for, numbers beside them, and
    then hands the dict to the optimizer, but without the state of such parameters. So what was written since it was
    given out is the state that was loaded.
    """

    def __init__(self) -> None:
        self._given: dict[str, tuple[dict[str, Any], list[int]]] = {}

    def note(self, saved: Mapping[str, Any], live: Sequence[dict[str, Any]]) -> None:
        """Remember a state dict.

        Args:
            saved: that is given out.
            live: the param groups of the optimizer, in the same order.
        """
        self._given = {}
        for group, mine in zip(saved["param_groups"], live, strict=True):
            for index, (name, p) in zip(group["params"], named(mine), strict=True):
                if (state := saved["state"].get(index)) and not p.requires_grad:
                    self._given[name] = state, _versions(state)

    def clear(self) -> None:
        """Forget it, as a step writes to the same tensors."""
        self._given = {}

    def filled(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Return a state dict with the state that was loaded for parameters of which it has none.

        saved: what is loaded now, maybe nothing that a state dict should be.
        """
        states, groups = saved.get("state"), saved.get("param_groups")
        if not (self._given and isinstance(states, dict) and isinstance(groups, list)):
            return saved
        found = dict(states)
        for group in [group for group in groups if isinstance(group, dict)]:
            for name, index in zip(group.get("param_names") or (), group.get("params") or (), strict=False):
                state = self._written(name, group.get("step")) if isinstance(name, str) else None
                if state is not None and not found.get(index):
                    found[index] = state
        return saved | {"state": found}

    def _written(self, name: str, step: object) -> dict[str, Any] | None:
        state, before = self._given.get(name, ({}, []))
        tensors = [local(x) for x in state.values() if isinstance(x, Tensor)]
        now = _versions(state)
        new = all(a != b or not x.numel() for a, b, x in zip(before, now, tensors, strict=True))
        # In flattened state dicts numbers are not written where they came from.
        return state if tensors and new and (bool(state.get("step")) or not step) else None


def _versions(state: Mapping[str, Any]) -> list[int]:
    return [local(x)._version for x in state.values() if isinstance(x, Tensor)]
