"""Param groups as users gave them, and within each the sections that are trained alike."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...policy.treatment import Treatment

__all__ = ["MIXED", "Section", "joined", "sections"]

MIXED = "mixed"  # the tag of a group with parameters of several treatments
UNTRAINED = "frozen"  # of a group without any that is trained


class Section(dict):
    """Those parameters of a param group that are trained alike.

    It reads as a group of their own: what it does not have itself (lr, step ...) is that of the user's group, now.

    Args:
        group: the user's.
        names: of these parameters.
        own: what the section has of its own.
    """

    def __init__(self, group: dict[str, Any], names: Sequence[str], own: Mapping[str, Any]):
        super().__init__(own, param_names=list(names))
        self._group, self._all = group, group["param_names"]
        places = {name: i for i, name in enumerate(self._all)}
        self._places = [places[name] for name in names]

    def __missing__(self, key: str) -> Any:
        if key == "params":
            params: list[Tensor] = self._group["params"]
            return [params[i] for i in self._places]
        return self._group[key]


def joined(group: dict[str, Any], parts: Sequence[dict[str, Any]], numbers: dict[str, Any]) -> dict[str, Any]:
    """Return one param group of parameters that are trained in several ways, in the order they were given in.

    Args:
        group: as torch has completed it, with names.
        parts: the same parameters in one group a treatment; what is frozen is in none.
        numbers: what each group has beside.
    """
    if len(parts) == 1:
        return parts[0] | numbers
    tags = {part["tag"] for part in parts} or {UNTRAINED}
    labels = {name: part["treatment"] for part in parts for name in part["param_names"]}
    tensors = {name: p for part in parts for name, p in zip(part["param_names"], part["params"], strict=True)}
    order = [name for name in group["param_names"] if name in labels]
    own: dict[str, Any] = {"params": [tensors[n] for n in order], "param_names": order}
    own |= {"tag": tags.pop() if len(tags) == 1 else MIXED}
    own |= {"treatments": {n: labels[n] for n in order}} if parts else {}
    return group | own | numbers


def sections(groups: Iterable[dict[str, Any]], treatments: Mapping[str, Treatment]) -> Iterator[dict[str, Any]]:
    """Yield what is trained alike, group by group: groups of one treatment as they are, sections of others.

    Args:
        groups: of an optimizer.
        treatments: by the text that stands for them in groups.
    """
    for group in groups:
        if "treatment" in group:
            yield group
        for label, names in _by_label(group).items():
            decay, own = treatments[label].weight_decay, {"treatment": label, "tag": treatments[label].tag}
            exempt = decay is not None and not group["own_weight_decay"]
            yield Section(group, names, own | ({"weight_decay": decay} if exempt else {}))


def _by_label(group: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in group["param_names"] if "treatments" in group else ():
        found.setdefault(group["treatments"][name], []).append(name)
    return found
