"""What becomes of an optimizer's groups and state when its model changes: checked, carried out, and said."""

import warnings
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from ...core.errors import HybridOptError, HybridOptWarning
from ...model.fsdp.sharded_tensors import is_sharded
from ..groups.tags import Tags, named
from .conversions import AGAIN, Conversions, check_shape
from .module_tree import TreeChanges

__all__ = ["check", "joined", "rebound", "say", "say_untrained"]


def check(
    changes: TreeChanges, conversions: Conversions, tags: Tags, groups: list[dict], busy: Mapping[str, Tensor]
) -> None:
    """Raise HybridOptError for changes that cannot be followed; nothing is changed.

    Args:
        changes: of the model.
        conversions: knows what the parameters were.
        tags: the treatments of the groups.
        groups: the param groups of the optimizer.
        busy: the parameters that take part in training, by name.
    """
    lost = {*changes.gone, *changes.tied}
    for group in groups:
        for name, p in named(group):
            if name in changes.replaced:
                _check_replaced(name, p, changes.replaced[name])
        if lost.issuperset(group["param_names"]):
            raise HybridOptError(
                f"{_some(group['param_names'])} no longer in the model, and nothing else is trained as they were (tag "
                f"{group['tag']!r}); nothing was changed: {AGAIN}"
            )
    conversions.check(tags, groups, {n: changes.replaced.get(n, p) for n, p in busy.items() if n not in lost})


def rebound(changes: TreeChanges, tags: Tags, groups: list[dict], state: dict) -> None:
    """Put the model's tensors, with the state of those before, in the places of those that it has no more.

    Args:
        changes: of the model, checked.
        tags: the treatments of the groups.
        groups: the param groups of the optimizer.
        state: its state, by parameter.
    """
    lost = {*changes.gone, *changes.tied}
    probed = {n for s in tags.sections(groups) if not tags.treatment(s).source.backward for n in s["param_names"]}
    for group in groups:
        members = []
        for name, p in named(group):
            new = changes.replaced.get(name, p)
            if new is not p or name in lost:
                known = state.pop(p, None)
                if known is not None and name not in lost:
                    state[new] = known
            if new is not p and name in probed:
                new.requires_grad_(p.requires_grad)  # as `wrap` leaves what only probes train
            if name not in lost:
                members.append((name, new))
        _fill(group, members, group.get("treatments", {}))


def joined(strays: Mapping[str, Tensor], tags: Tags, groups: list[dict], order: Mapping[str, int]) -> set[str]:
    """Add what was unfrozen to the groups of the same treatment, in the order of the model, and return its names.

    No group is added, as schedulers of learning rates count them.

    Args:
        strays: parameters that require gradients and are not held, by name.
        tags: the treatments of the groups.
        groups: the param groups of the optimizer.
        order: the places of all names in the model.
    """
    homes = {label: group for group in reversed(groups) for label in _labels(group)}
    labels = {n: label for n, label in tags.unfrozen(strays).items() if label in homes}
    found = {n: homes[label] for n, label in labels.items()}
    for group in groups:
        own = [(n, strays[n]) for n, home in found.items() if home is group]
        if own:
            members = sorted([*named(group), *own], key=lambda member: order.get(member[0], len(order)))
            _fill(group, members, {**group.get("treatments", {}), **labels})
    if found:
        tags.order = dict(order)
    return set(found)


def _labels(group: dict) -> Iterable[str]:
    """Return the treatments of a group's parameters, as groups say them."""
    return [group["treatment"]] if "treatment" in group else set(group.get("treatments", {}).values())


def _fill(group: dict, members: Sequence[tuple[str, Tensor]], labels: Mapping[str, str]) -> None:
    """Give a group its members, and where they are trained in several ways the treatment of each.

    Args:
        group: of the optimizer; changed.
        members: their names and tensors, in order.
        labels: by name, the treatments, as groups say them.
    """
    group["param_names"], group["params"] = [n for n, _ in members], [p for _, p in members]
    if "treatments" in group:
        group["treatments"] = {n: labels[n] for n, _ in members}


def say(changes: TreeChanges, told: set[str]) -> None:
    """Warn, once a name, of parameters that are no longer trained under their own names.

    Args:
        changes: of the model.
        told: names that were said before, which is added to.
    """
    for name, other in changes.tied.items():
        _tell([name], told, f"{name!r} is tied to {other!r} now, and is trained as that")
    if changes.gone:
        _tell(changes.gone, told, f"{_some(changes.gone)} no longer in the model; their state was let go")


def say_untrained(names: Sequence[str], tags: Tags, told: set[str]) -> None:
    """Warn, once a name, of parameters that gather gradients in vain.

    Args:
        names: of the parameters.
        tags: what is known of them.
        told: names that were said before, which is added to.
    """
    new = [n for n in names if n not in told]
    if not new:
        return
    wrapped, barred = bool(tags.plan), tags.plan.freezes(new[0])
    why = "the policy freezes them" if barred else "they were added, or unfrozen, after it was made"
    cure = "train them by another policy" if barred else "give them to its add_param_group(...)"
    if wrapped and not barred:
        cure = "call model.hybrid.optimizer(...) again, for one that trains the model as it is now"
    _tell(
        new,
        told,
        f"{_some(new)} not trained by this optimizer, as {why}, but require gradients, which pile up: its zero_grad() "
        f"does not reach them. Set their requires_grad to False, or {cure}",
    )


def _check_replaced(name, old, new):
    check_shape(name, old.shape, new)
    if is_sharded(new) != is_sharded(old):
        raise HybridOptError(f"parameter {name!r} was sharded after this optimizer was made: {AGAIN}")


def _tell(names: Iterable[str], told: set[str], text: str) -> None:
    if not told.issuperset(names):
        told.update(names)
        warnings.warn(text, HybridOptWarning, stacklevel=7)


def _some(names: Sequence[str]) -> str:
    return f"{names[0]!r} is" if len(names) == 1 else f"{names[0]!r} and {len(names) - 1} more are"
