"""An optimizer that stays in step with its model: hooks, and a look at the parameters before each step."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ..core.contracts import Release
from ..core.peers import Peers
from .agreement import Agreement
from .changing import check, joined, rebound, say, say_untrained
from .forms import Forms
from .groups import Tags, named
from .hooks import Hooks
from .loss_windows import LossWindows
from .parameters import Parameters
from .probing.state import ProbeState
from .replicas.replicas import Replicated
from .trainable import Alive
from .tree import Tree, TreeChanges
from .turns import Turns

__all__ = ["Following"]


class Following:
    """What keeps an optimizer and the parameters of its model together.

    It looks once a step, before anything of that step is used. Tensors that were put in the places of others go on
    with their state, by name, as if the values had been copied; what was unfrozen is trained like its equals; what was
    removed is let go. What cannot be gone on with is refused before anything is changed.
    """

    compile: bool | str
    nonfinite: str
    param_groups: list[dict[str, Any]]
    state: Any
    _alive: Alive
    _check_observed: Callable[[], None]
    _backward: Callable[[dict], Sequence[Tensor]]
    _agreement: Agreement
    _forms: Forms
    _hooked: bool
    _hooks: Hooks
    _lock: Lock
    _looked: bool
    _pace: LossWindows | None
    _parameters: Parameters
    _probing: ProbeState
    _release: Release
    _replicas: Replicated
    _sections: Callable[[], list[dict]]
    _stale: str | None
    _tags: Tags
    _told: set[str]
    _trainable: frozenset[str]
    _tree: Tree
    _turns: Turns

    # ---- hooks

    @torch.no_grad()
    def gradient_ready(self, name: str, p: Tensor) -> None:
        """Hand a gradient that the backward pass has completed to the release; hooks call this."""
        if not self._looked:
            with self._lock:  # backward runs a thread for each device
                if not self._looked:
                    self._look()
                    self._agreement.check(self._parameters, self._replicas.ddp)
                    if self._release.frees_gradients:
                        self._check_observed()
                        self._replicas.check_known(self._parameters.params())
        if self._replicas.averages(p):
            self._parameters.drop_idle(name, p)  # the others come when they are averaged
        else:
            self._release.gradient_ready(self._parameters, name, p, self.nonfinite)

    @torch.no_grad()
    def gradient_averaged(self, name: str, p: Tensor, read: bool) -> None:
        """Hand a gradient that DDP has averaged to the release; its communication hook calls this.

        Args:
            name: of the parameter.
            p: the parameter; the average is in `.grad`.
            read: does somebody still read the weight?
        """
        self._release.gradient_ready(self._parameters, name, p, self.nonfinite, read)

    def entered(self, ddp: Any) -> None:
        """See that ranks agree before the first pass with gradients, in which they meet; hooks of the model call this.

        ddp: the DistributedDataParallel that computes, None without.
        """
        params = set() if ddp is None else {id(p) for p in ddp.parameters()}
        ddp = ddp if any(id(p) in params for p in self._held().values()) else None
        if ddp is not None or any(one.share is not None for one in self._parameters.windows.all()):
            self._agreement.check(self._parameters, ddp)
        if ddp is not None:
            self._replicas.follow(ddp, self._parameters, self._release.frees_gradients)

    def unhook(self) -> bool:
        """Remove every hook from the parameters; the optimizer can still step. Returns whether there were any."""
        self._hooks.remove()
        self._replicas.leave()
        self._hooked, before = False, self._hooked
        return before

    def rehook(self) -> None:
        """Put the hooks back that `unhook` has removed."""
        self._hooked = True
        self._rebuild()
        self._watch()
        self._replicas.expect(self._tree.module, self._parameters.params())

    def retire(self, why: str) -> None:
        """Let go of the parameters, as they are no longer those of the model: every later step raises `why`."""
        self.unhook()
        self._stale = why

    def _watch(self):
        """Put hooks where they must be now; never within a backward pass, which is running them."""
        if self._hooked and self._hooks.stale(wanted := self._watched()):
            self._hooks.put(wanted, alone=self._release.frees_gradients)

    def _watched(self):
        taken = [g for g in self._sections() if self._backward(g)]
        groups = [g for g in taken if self._release.hooks(self._tags.treatment(g).free.idle)]
        return {n: p for g in groups for n, p in named(g) if p.requires_grad}

    def _peers(self) -> Peers | None:
        """Return the ranks that train the same model; None: there are no others."""
        return self._agreement.peers(self._parameters, self._replicas.ddp)

    # ---- changes of the model

    def _look(self) -> None:
        """Follow what has changed since the last step."""
        held = self._held()
        changes = self._tree.changes(held) if self._tree.changed() else TreeChanges()
        if changes.moved or self._forms.changed(held.values()):
            check(changes, self._forms, self._tags, self.param_groups, self._busy())
            if changes.moved:
                rebound(changes, self._tags, self.param_groups, self.state)
                self._probing.broken(f"{next(iter(changes.moved))!r} was replaced in the model")
                say(changes, self._told)
                self._regroup()
            self._settle()
        if changes.strays:
            taken = joined(changes.strays, self._tags, self.param_groups, self._tree.order())
            if taken:
                self._regroup()
            say_untrained([n for n in changes.strays if n not in taken], self._tags, self._told)
        self._parameters.windows.refresh()
        self._looked = True

    def _settle(self):
        """Bring the state to the devices and dtypes that the parameters have now."""
        changed = self._forms.settle(self._parameters.windows, self.state, self._busy())
        if changed:
            self._probing.broken(f"{changed[0]!r} was converted, or moved to another device,")
            self._rebuild()

    def _busy(self) -> dict[str, Tensor]:
        """Return the parameters that take part in training, not those that are frozen for the time being."""
        probed = {n for g in self._sections() if not self._backward(g) for n in g["param_names"]} & self._trainable
        return {n: p for n, p in self._held().items() if p.requires_grad or p.grad is not None or n in probed}

    def _held(self) -> dict[str, Tensor]:
        return {n: p for group in self._sections() for n, p in named(group)}

    def _regroup(self):
        """Derive everything anew, after the members of groups have changed."""
        self._probing.clear()
        self._rebuild()
        self._alive = Alive()
        self._alive.add(p for group in self._sections() for p in self._backward(group))

    def _rebuild(self):
        """Forget what was derived from the groups."""
        self._parameters = Parameters(
            self, self._tags, self.compile, self._probing.measured, self._trainable, self._turns, self._pace
        )
        self._probing.follow(self._parameters)
        self._tree.hold(self._held())
