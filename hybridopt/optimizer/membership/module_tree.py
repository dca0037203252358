"""The module tree of an optimizer's model: what of it has changed under the optimizer."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ...model.fsdp.sharded_tensors import is_sharded
from ...model.roles import clean

__all__ = ["TreeChanges", "Tree"]


@dataclass
class TreeChanges:
    """What has become of the parameters that an optimizer holds, and what else asks for gradients.

    Args:
        replaced: by name, the tensors that are in the places of others now.
        tied: names whose places hold another parameter of the optimizer now, with that one's name.
        gone: names whose places are no longer in the model.
        strays: by name, parameters that require gradients and are not the optimizer's.
    """

    replaced: dict[str, Tensor] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    strays: dict[str, Tensor] = field(default_factory=dict)

    @property
    def moved(self) -> list[str]:
        """Return the names of all parameters that are not where the optimizer knew them."""
        return [*self.replaced, *self.tied, *self.gone]


class Tree:
    """The parameters that a model has now, beside those that an optimizer holds.

    A look compares identities, one walk over the modules' own dicts; names are worked out only where something has
    changed. Held parameters that were never in the tree (scales of quantized weights) are not looked for, nor are
    shards, for which their library puts other tensors in their places while the model computes.

    Args:
        module: the model, held weakly; None where it is not known, then nothing is ever seen to change.
    """

    def __init__(self, module: nn.Module | None):
        self._module = None if module is None else weakref.ref(module)
        self._placed: dict[str, Tensor] = {}
        self._others: frozenset[str] = frozenset()  # trained by somebody else
        self._seen: tuple | None = None
        self.told: set[str] = set()  # names of parameters whose changes were warned of

    @property
    def module(self) -> nn.Module | None:
        """Return the model, None where it is not known or gone."""
        return None if self._module is None else self._module()

    def __deepcopy__(self, memo: dict) -> "Tree":
        """Look at the copy of the model, where it is copied together with the optimizer."""
        root = self.module
        other = Tree(None if root is None else memo.get(id(root)))
        other._others, other.told = self._others, set(self.told)
        return other

    def __getstate__(self) -> dict:
        return {"_module": None, "_placed": {}, "_others": self._others, "_seen": None, "told": self.told}

    def hold(self, held: Mapping[str, Tensor]) -> None:
        """Look from now on for these parameters of the optimizer, wherever they are in the model."""
        root = self.module
        live = set(_identities(root)[1]) if root is not None else set()
        stay = {n: p for n, p in held.items() if self._placed.get(n) is p or id(p) in live}
        self._placed = {n: p for n, p in stay.items() if not is_sharded(p)}
        self._seen = None

    def leave(self, held: Mapping[str, Tensor]) -> None:
        """Leave what requires gradients now, and is not held, to other optimizers."""
        self._others = frozenset(self._strays(self._names(), held))

    def changed(self) -> bool:
        """Return whether modules, parameters or their requires_grad are others than at the last `changes`."""
        root = self.module
        return root is not None and _identities(root) != self._seen

    def changes(self, held: Mapping[str, Tensor]) -> TreeChanges:
        """Compare the model with the parameters that the optimizer holds, by name."""
        root, names, found = self.module, self._names(), TreeChanges()
        there, holders = {id(p) for p in names.values()}, {id(p): n for n, p in held.items()}
        for name, p in self._placed.items():
            if id(p) in there or held.get(name) is not p:
                continue
            new = names.get(name)
            if new is None:
                found.gone.append(name)
            elif other := holders.get(id(new)):
                if names.get(other) is new:
                    found.tied[name] = other
                else:
                    found.gone.append(name)  # layers after it have moved up
            else:
                found.replaced[name] = new
                holders[id(new)] = name
        strays = self._strays(names, {**held, **found.replaced})
        found.strays = {n: p for n, p in strays.items() if n not in self._others}
        self._seen = None if root is None else _identities(root)
        return found

    def order(self) -> dict[str, int]:
        """Return the places of all names in the model."""
        return {name: i for i, name in enumerate(self._names())}

    def _names(self):
        root = self.module
        named = () if root is None else root.named_parameters(remove_duplicate=False)
        return {clean(n): p for n, p in named}

    def _strays(self, names, held):
        """Return what requires gradients and is not held, once each."""
        known, strays = {id(p) for p in held.values()}, {}
        for name, p in names.items():
            if p.requires_grad and name not in held and id(p) not in known:
                known.add(id(p))
                strays[name] = p
        return strays


def _identities(root: nn.Module) -> tuple[list[int], list[int], list[bool]]:
    """Return the identities of all modules and parameters, and whether these require gradients, in order."""
    modules, seen = [root], {id(root)}
    params: list[Tensor | None] = []
    for module in modules:
        params += module._parameters.values()
        for child in module._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                modules.append(child)
    return list(map(id, modules)), list(map(id, params)), [p is not None and p.requires_grad for p in params]
