"""Shifted copies that stand in for parameters while a model computes; the parameters are never written."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ...core.errors import HybridOptError
from .watch import Seen, Watch, plain

__all__ = ["Perturbation", "Shift"]

Shift = Callable[[str, Tensor], Tensor | None]  # name, parameter -> its shifted copy; None: as it is
MANY = 1000  # ways through a model that are remembered


class Perturbation:
    """Forward passes at shifted weights (MeZO, Malladi et al. 2023, without its in-place changes, which round).

    While a module computes, copies stand in for the parameters of its own, so that the extra memory is that of one
    module. Parameters that are used elsewhere (`F.linear(h, embedding.weight)`), in compiled code, or that belong to
    no module of `root` are `loose`: their `data` is a copy during the whole evaluation.

    Args:
        params: what can be shifted, by name.
        root: the model; None makes all of them loose.
        owners: the modules of tensors that are no parameters of a module but are used by one alone, by their names in
            `params`.
    """

    def __init__(
        self, params: Mapping[str, Tensor], root: nn.Module | None, owners: Mapping[str, nn.Module] | None = None
    ):
        first = {id(p): name for name, p in reversed(list(params.items()))}
        self.params = {name: p for name, p in params.items() if first[id(p)] == name}
        self.owners = dict(owners or {})
        self._root = None if root is None else weakref.ref(root)
        self.loose: set[str] = set()
        self.missed: frozenset[str] = frozenset()
        self.unused = False
        self.untouched: frozenset[str] = frozenset()
        self.strays = False
        self._idle: set[frozenset[str]] = {frozenset()}  # what was found to take no part in watched evaluations
        self._spared: frozenset[str] = frozenset()

    @property
    def root(self) -> nn.Module | None:
        """The model, while it lives."""
        return None if self._root is None else self._root()

    @contextmanager
    def shifted(self, shift: Shift, watch: bool = True) -> Iterator[None]:
        """Let forward passes within it compute with `shift(name, p)`, of p's shape and dtype, for every parameter p.

        On leaving, `missed` names the parameters that were used unshifted: they are loose from now on, and the
        evaluation must be repeated. It is reliable after evaluations with `watch`, which are slower; those without
        only notice that no module computed at all, or others than ever: then `strays` is True, and the evaluation
        must be repeated with `watch`. `unused`: the last watched evaluation saw no parameter in use, be it shifted;
        `untouched` names those that it did not see.
        Whatever is raised inside, everything is put back. Raises HybridOptError for a loose parameter of which there
        can be no copy, or which is used through an alias.
        """
        known = len(self.loose)
        places = self._places()
        looks = watch or len(self.loose) > known
        watch = watch and bool(places or self.missed)
        loose, self.missed = sorted(self.loose), frozenset()
        self._check(self.loose)
        swaps = _Swaps(self.params, places, shift, watch)
        copies = Seen({})
        try:
            try:
                swaps.begin(loose)
                copies = Seen({name: self.params[name] for name in loose})
                swaps.watch = Watch(swaps.seen, copies)
                with swaps.watch if watch or looks else nullcontext():
                    yield
            finally:
                swaps.end()
        finally:
            swaps.end()  # once more, for an interrupt during the first
        _check_aliases(swaps.seen.names.intersection(loose))
        self.missed = self._missed(swaps, watch)
        self.unused = not (swaps.fired or copies.names) and (looks or self.unused)
        if looks:
            self.untouched = frozenset(self.params) - swaps.used - copies.names - swaps.seen.names
        self.loose |= self.missed
        self._check(self.missed)

    def _missed(self, swaps, watch):
        """Return what was seen unshifted, and what cannot be told as its module never computed, but for known ones."""
        idle = swaps.idle
        self.strays = not watch and swaps.fired and idle not in self._idle
        spared, self._spared = self._spared, idle if self.strays else frozenset()
        if watch and len(self._idle) < MANY:
            self._idle.add(idle)
        return frozenset(swaps.seen.names) | (idle - spared if watch or not swaps.fired else frozenset())

    def _places(self):
        """(attribute, name) of what stands in for what, by module; what has no place is loose."""
        names = {id(p): name for name, p in self.params.items() if name not in self.loose}
        found: dict[nn.Module, list[tuple[str | None, str]]] = {}
        for name, module in self.owners.items():
            if names.pop(id(self.params.get(name)), None):
                found.setdefault(module, []).append((None, name))
        root = self.root
        for module in root.modules() if root is not None else ():
            for attribute, p in module._parameters.items():
                if id(p) in names:
                    found.setdefault(module, []).append((attribute, names[id(p)]))
        elsewhere = _elsewhere(root)
        placed = {name for module in found for _, name in found[module]}
        self.loose |= self.params.keys() - self.loose - placed
        self.loose |= {name for module in elsewhere & found.keys() for _, name in found[module]}
        kept = {module: [place for place in places if place[1] not in self.loose] for module, places in found.items()}
        return {module: places for module, places in kept.items() if places}

    def _check(self, loose):
        for name, p in self.params.items():
            if p.is_meta:
                raise HybridOptError(
                    f"parameter {name!r} is on the meta device (offloaded, or not loaded), where it has no values to "
                    "shift; load it to the CPU or an accelerator, or keep it out of zeroth-order training"
                )
            if name in loose and not plain(p):
                raise HybridOptError(
                    f"parameter {name!r} ({type(p.data).__name__}) is used outside the forward of its own module, or "
                    "in compiled code, or sharded, and cannot be shifted there without writing to it; keep it out of "
                    "zeroth-order training, or do without FSDP, torch.compile or quantization='int8-trainable' here"
                )


class _Swaps:
    """The hooks of one evaluation, and everything that must be put back after it."""

    def __init__(self, params, places, shift, watch):
        self._params, self._places, self._shift = params, places, shift
        self._watched = watch
        self.seen, self.watch = Seen(params if watch else {}), Watch()
        self._depth: Counter[nn.Module] = Counter()
        self._own: dict[tuple[nn.Module, str], tuple[str, Tensor]] = {}
        self._data: dict[str, Tensor] = {}
        self._fired: set[tuple[nn.Module, str | None, str]] = set()
        self._handles = []

    def begin(self, loose):
        torch.clear_autocast_cache()  # it knows casts by parameter, whatever its `data`
        for name in loose:
            self._move(name)
        for module in self._places:
            self._handles.append(module.register_forward_pre_hook(self._before, prepend=True))
            self._handles.append(module.register_forward_hook(self._after, always_call=True))

    def end(self):
        """Put everything back; may be interrupted and called again."""
        for handle in self._handles:
            handle.remove()
        for module, attribute in list(self._own):
            self._return(module, attribute)
        for name in list(self._data):
            self._move_back(name)
        torch.clear_autocast_cache()

    @property
    def fired(self):
        """Did any module compute with a copy?"""
        return bool(self._fired)

    @property
    def used(self):
        """Names of what some module computed with."""
        return {name for *_, name in self._fired}

    @property
    def idle(self):
        """Names of what no module computed with."""
        places = {(module, *place) for module, found in self._places.items() for place in found}
        return frozenset(name for *_, name in places - self._fired)

    def _before(self, module, _):
        if torch.compiler.is_compiling():
            return
        self._depth[module] += 1
        if self._depth[module] > 1:
            return
        self.watch.quiet = True
        try:
            for place in self._places[module]:
                self._stand_in(module, *place)
        finally:
            self.watch.quiet = False

    def _after(self, module, *_):
        if torch.compiler.is_compiling() or not self._depth[module]:
            return
        self._depth[module] -= 1
        if self._depth[module]:
            return
        self.watch.quiet = True
        try:
            for attribute, name in self._places[module]:
                self._return(module, attribute) if attribute else self._move_back(name)
        finally:
            self.watch.quiet = False

    def _stand_in(self, module, attribute, name):
        if attribute is None:
            self._move(name)
        elif module._parameters.get(attribute) is not self._params[name]:
            return  # somebody else has put another tensor here
        elif (copy := self._copy(name)) is not None:
            copy = nn.Parameter(copy, requires_grad=False)
            self._own[module, attribute] = name, copy
            module._parameters[attribute] = copy
        self._fired.add((module, attribute, name))

    def _return(self, module, attribute):
        name, copy = self._own.get((module, attribute), (None, None))
        if name is not None:
            if module._parameters.get(attribute) is not copy:
                self._fired.discard((module, attribute, name))  # it did not stay: FSDP puts the whole in its place
            module._parameters[attribute] = self._params[name]
            del self._own[module, attribute]

    def _move(self, name):
        copy = self._copy(name)
        if copy is not None:
            p = self._params[name]
            self._data[name] = p.data
            p.data = copy

    def _move_back(self, name):
        if name in self._data:
            self._params[name].data = self._data[name]
            del self._data[name]

    def _copy(self, name):
        p = self._params[name]
        copy = self._shift(name, p)
        return p.detach().clone() if copy is None and self._watched else copy  # all copies, for the watch to tell


def _elsewhere(root):
    """Modules that compute without hooks, below those that `torch.compile` runs, or with weights noted elsewhere."""
    if root is None:
        return set()
    modules = list(root.modules())
    tops = [m for m in modules if "_orig_mod" in m._modules or m._compiled_call_impl is not None]
    return {m for top in tops for m in top.modules()} | {m for m in modules if isinstance(m, nn.RNNBase)}


def _check_aliases(names):
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise HybridOptError(
            f"parameters {sorted(names)[:3]}{more} are also used through other tensors that share their memory (a "
            "view, .data or .detach() made before the evaluation), which cannot be shifted; use the parameters "
            "themselves in the closure, or tie them"
        )
