"""The parameters that an optimizer trains, kept the same as those of its model."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..groups.tags import Tags, named
from ..parameters import Parameters
from ..probing.state import ProbeState
from .conversions import Conversions
from .model_changes import check, joined, rebound, say, say_untrained
from .module_tree import Tree, TreeChanges
from .requires_grad import TrainableCount

__all__ = ["Membership"]


class Membership:
    """Keeps the parameters of an optimizer the same as those of its model.

    It looks once a step, before anything of that step is used. Tensors that were put in the places of others go on
    with their state, by name, as if the values had been copied; what was unfrozen is trained like its equals; what was
    removed is let go. What cannot be gone on with is refused before anything is changed.

    Args:
        optimizer: whose groups and state these are; held weakly.
        tags: the treatments of the groups.
        tree: the modules of the model.
        count: counts the parameters that can be trained.
        probing: has to know which parameters probes shift, and where weights change otherwise than by steps.
        make: makes the Parameters of the optimizer, of which it gets a weak proxy, whenever groups have changed.
    """

    parameters: Parameters  # from the first `rebuild` on

    def __init__(
        self,
        optimizer: Optimizer,
        tags: Tags,
        tree: Tree,
        count: TrainableCount,
        probing: ProbeState,
        make: Callable[[Any], Parameters],
    ):
        self._optimizer = weakref.proxy(optimizer)
        self._tags, self._tree, self._trainable_count, self._probing, self._make = tags, tree, count, probing, make
        self._conversions = Conversions()
        self.followed = False  # in the step that is on

    def held(self) -> dict[str, Tensor]:
        """Return the parameters that the optimizer holds, by name."""
        return {n: p for group in self.parameters.windows.sections for n, p in named(group)}

    def by_backward(self) -> list[dict]:
        """Return the groups, or sections of groups, that take gradients from the backward pass."""
        return self._tags.by_backward(self.parameters.windows.sections)

    def hooked(self, wanted: Callable[[bool], bool]) -> dict[str, Tensor]:
        """Return by name the parameters whose gradients are waited for.

        wanted: are those of treatments waited for by which some parameters stand still (True), or by which none does?
        """
        groups = [group for group in self.by_backward() if wanted(self._tags.treatment(group).free.idle)]
        return {n: p for group in groups for n, p in named(group) if p.requires_grad}

    def follow(self) -> None:
        """Follow what has changed of the model since the last step."""
        held, groups = self.held(), self._optimizer.param_groups
        changes = self._tree.changes(held) if self._tree.changed() else TreeChanges()
        if changes.moved or self._conversions.changed(held.values()):
            check(changes, self._conversions, self._tags, groups, self._busy())
            if changes.moved:
                rebound(changes, self._tags, groups, self._optimizer.state)
                self._probing.broken(f"{next(iter(changes.moved))!r} was replaced in the model")
                say(changes, self._tree.told)
                self._regroup()
            self.settle()
        if changes.strays:
            taken = joined(changes.strays, self._tags, groups, self._tree.order())
            if taken:
                self._regroup()
            say_untrained([n for n in changes.strays if n not in taken], self._tags, self._tree.told)
        self.parameters.windows.refresh()
        self.followed = True

    def settle(self) -> None:
        """Bring the state to the devices and dtypes that the parameters have now."""
        changed = self._conversions.settle(self.parameters.windows, self._optimizer.state, self._busy())
        if changed:
            self._probing.broken(f"{changed[0]!r} was converted, or moved to another device,")
            self.rebuild()

    def rebuild(self) -> None:
        """Derive everything anew from the groups, as they have changed."""
        self.parameters = self._make(self._optimizer)
        self._probing.follow(self.parameters)
        self._tree.hold(self.held())

    def _regroup(self) -> None:
        """Derive everything anew, after the members of groups have changed."""
        self._probing.clear()
        self.rebuild()
        self._trainable_count.begin(p for group in self.by_backward() for p in group["params"])

    def _busy(self) -> dict[str, Tensor]:
        """Return the parameters that take part in training, not those that are frozen for the time being."""
        taking = {n for group in self.by_backward() for n in group["param_names"]}
        held, trainable = self.held(), self._tags.trainable
        probed = {n for n in held if n not in taking and n in trainable}
        return {n: p for n, p in held.items() if p.requires_grad or p.grad is not None or n in probed}
