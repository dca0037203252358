"""A saved state in the groups of a live optimizer: parameters go by name, whatever groups they were saved in."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...core.errors import HybridOptError, HybridOptWarning, shown, written
from ...model.roles import uncontained
from .checks import CURE
from .treatment_labels import completed, difference

__all__ = ["regrouped", "rejoined"]

Group = dict[str, Any]
STRUCTURE = frozenset(("params", "param_names", "tag", "treatment", "treatments", "user_group", "own_weight_decay"))
SHAPES = "param_shapes"  # what the state dict has beside
LIVE = STRUCTURE | {"name", SHAPES}  # what the live groups say, whatever was saved


def regrouped(saved: Sequence[Any], live: Sequence[Group]) -> list[Any]:
    """Return saved groups in the sections of a live optimizer; as they are where parameters differ.

    Args:
        saved: the param groups of a state dict.
        live: the sections of the optimizer.

    Raises:
        HybridOptError: for parameters of one section that were trained in different ways, or by different numbers.
    """
    _check_ours(saved)
    flat = [part for group in saved for part in _parts(group)]
    if not all(isinstance(part, dict) and _named(part) for part in flat):
        return flat
    flat = [{key: completed(x) if key == "treatment" else x for key, x in part.items()} for part in flat]
    flat = _renamed(flat, {name for section in live for name in section["param_names"]})
    where = {name: part for part in flat for name in part["param_names"]}
    names = {name for section in live for name in section["param_names"]}
    if where.keys() != names or len(where) != sum(len(part["param_names"]) for part in flat):
        return flat
    return [_gathered(section, where) for section in live]


def rejoined(live: Sequence[Group], matched: Sequence[Group]) -> list[Group]:
    """Return the saved groups of sections in the groups of the optimizer, for torch to load.

    live: the param groups of the optimizer. matched: the saved groups of all their sections.
    """
    found = {name: group for group in matched for name in group["param_names"]}
    return [_rejoined(group, found, matched) for group in live]


def _rejoined(mine: Group, found: Mapping[str, Group], matched: Sequence[Group]) -> Group:
    own = {key: mine[key] for key in mine if key in LIVE}
    if not mine["param_names"]:
        return {**mine, "step": matched[0]["step"]} if matched else mine
    sources = _once(found[name] for name in mine["param_names"])
    ids = {n: i for group in sources for n, i in zip(group["param_names"], group["params"], strict=True)}
    plain = [group for group in sources if not _exempt(mine, group)] or sources
    numbers = _numbers(sources, mine["param_names"][0]) | {"weight_decay": _decay(plain, mine)}
    return {**numbers, **own, "params": [ids[name] for name in mine["param_names"]]}


def _exempt(mine: Group, group: Group) -> bool:
    """Tell whether a section does not take the weight decay of its group."""
    return "treatments" in mine and not mine["own_weight_decay"] and _read(group["treatment"])[1] is not None


def _check_ours(saved: Sequence[Any]) -> None:
    """Raise HybridOptError for the state of another optimizer, such as torch's AdamW."""
    groups = [group for group in saved if isinstance(group, dict)]
    if groups and not any(key in group for group in groups for key in ("tag", "treatment", "treatments")):
        have = ", ".join([str(key) for key in groups[0] if key not in ("params", "param_names")][:8])
        raise HybridOptError(
            f"the saved state is not of a HybridOptimizer: its groups have {have}, as those of torch's optimizers, "
            "whose moments cannot be taken over. Start with new state (leave load_state_dict out; with AdamW's rule "
            "it is made up for within some hundred steps), or go on with the optimizer that saved it"
        )


def _parts(group: Any) -> Iterator[Any]:
    """Yield a saved group as one group a treatment; what is no group stays as it is."""
    if not isinstance(group, dict) or "treatments" not in group:
        params = group.get("params") if isinstance(group, dict) else None
        empty = isinstance(params, list) and not params and "treatment" not in group
        if not empty:
            yield group
        return
    labels, names = group["treatments"], group["param_names"] if _named(group) else None
    if names is None or not isinstance(labels, dict) or not all(isinstance(labels.get(n), str) for n in names):
        raise HybridOptError(f"the saved state has treatments that do not belong to its parameters; {CURE}")
    numbers = {key: value for key, value in group.items() if key not in STRUCTURE | {SHAPES}}
    for label in dict.fromkeys(labels[name] for name in names):
        _, decay = _read(label)
        own = [place for place, name in enumerate(names) if labels[name] == label]
        part = numbers | {"treatment": label} | _members(group, own)
        exempt = decay is not None and group.get("own_weight_decay") is not True
        yield part | ({"weight_decay": decay} if exempt else {})


def _members(group: Group, places: Iterable[int]) -> Group:
    """Return the parameters of a saved group at some places: names, indices and, where they are there, shapes."""
    lists = {key: group[key] for key in ("param_names", "params", SHAPES) if isinstance(group.get(key), list | tuple)}
    same = {key: found for key, found in lists.items() if len(found) == len(group["param_names"])}
    return {key: [found[place] for place in places] for key, found in same.items()}


def _named(group: Group) -> bool:
    names, ids = group.get("param_names"), group.get("params")
    if not isinstance(names, list | tuple) or not isinstance(ids, list | tuple):
        return False
    return len(names) == len(ids) and all(isinstance(name, str) for name in names)


def _renamed(flat: list[Group], live: set[str]) -> list[Group]:
    """Take off what DistributedDataParallel put before all names, where the live ones have none of it."""
    names = [name for part in flat for name in part["param_names"]]
    short = dict(zip(names, uncontained(names), strict=True))
    if set(names) == live or set(short.values()) != live:
        return flat
    return [part | {"param_names": [short[name] for name in part["param_names"]]} for part in flat]


def _gathered(section: Group, where: Mapping[str, Group]) -> Group:
    """Return the saved group of a live section, out of those that have its parameters."""
    parts = _once(where[name] for name in section["param_names"])
    if _is(parts[0], section):
        return parts[0]
    rule, changed = _read(section["treatment"])[0], []
    for name in section["param_names"]:
        label = where[name].get("treatment")
        if not isinstance(label, str) or _read(label)[0] != rule:
            odd = difference(label, section["treatment"]) if isinstance(label, str) else ""
            raise HybridOptError(
                f"parameter {name!r} was trained as {shown(where[name].get('tag'))} with {written(label)}, "
                f"and is now {section['tag']!r} with {section['treatment']}{odd and f' ({odd})'}; make the optimizer "
                "with the policy it was saved with"
            )
        if label != section["treatment"]:
            changed.append(name)
    at = {name: (part, place) for part in parts for place, name in enumerate(part["param_names"])}
    members = [_members(part, [place]) for part, place in (at[name] for name in section["param_names"])]
    same = [part for part in parts if part["treatment"] == section["treatment"]]
    numbers = _numbers(parts, section["param_names"][0]) | {"weight_decay": _decay(same, section)}
    _say_changed(changed, where, numbers["weight_decay"])
    own = {"tag": section["tag"], "treatment": section["treatment"]}
    keys = set.intersection(*map(set, members))
    return numbers | own | {key: [member[key][0] for member in members] for key in keys}


def _is(part: Group, section: Group) -> bool:
    """Tell whether a saved group is one section's already."""
    label = part.get("treatment")
    own = part.get("tag") is not None and isinstance(label, str) and label == section["treatment"]
    return own and set(part["param_names"]) == set(section["param_names"])


def _numbers(parts: Sequence[Group], name: str) -> Group:
    """Return the numbers that groups which are one now have in common; HybridOptError for any that differ."""
    first, *others = ({k: v for k, v in part.items() if k not in LIVE} for part in parts)
    for other in others:
        for key in sorted((first.keys() | other.keys()) - {"weight_decay"}, key=str):
            if not _same(first.get(key), other.get(key)):
                raise HybridOptError(
                    f"{name!r} and other parameters of its group were saved in groups with different {written(key)} "
                    f"({shown(first.get(key))} and {shown(other.get(key))}), and are in one group now; make the "
                    "optimizer with the groups it was saved with"
                )
    return first


def _decay(parts: Sequence[Group], mine: Group) -> Any:
    """Return the weight decay that groups have in common; that of `mine` where none of them says it."""
    values = [part["weight_decay"] for part in parts if "weight_decay" in part]
    if any(not _same(value, values[0]) for value in values):
        raise HybridOptError(
            f"{mine['param_names'][0]!r} and other parameters of its group were saved with different weight_decay "
            f"({shown(values[:3])}), and are in one group now; make the optimizer with the groups it was saved with"
        )
    return values[0] if values else mine["weight_decay"]


def _say_changed(names: Sequence[str], where: Mapping[str, Group], now: Any) -> None:
    odd = [name for name in names if not _same(where[name].get("weight_decay"), now)]
    if odd:
        before = shown(where[odd[0]].get("weight_decay"))
        warnings.warn(
            f"{odd[0]!r} ({len(odd)} in all) had weight_decay={before} when this state was saved, and has "
            f"{shown(now)} from now on: the policy exempts it, as all norms and biases",
            HybridOptWarning,
            stacklevel=7,
        )


def _read(label: str) -> tuple[Any, Any]:
    """Return what a treatment's text says but for weight decay, and the weight decay."""
    try:
        data = json.loads(label.rstrip("'"))
        decay = data.pop("weight_decay")
    except (ValueError, AttributeError, KeyError, RecursionError):
        return label, None
    return (data, len(label) - len(label.rstrip("'"))), decay


def _same(one: Any, other: Any) -> bool:
    try:
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            return one.shape == other.shape and one.equal(other)
        return bool(one == other)
    except Exception:  # whatever was saved
        return False


def _once(groups: Iterable[Any]) -> list[Any]:
    """Return each object once, in order."""
    return list({id(group): group for group in groups}.values())
