"""Shifted copies that stand in for parameters while a model computes; the parameters are never written."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn

from ...core.errors import HybridOptError
from ...model.fsdp.sharded_tensors import is_sharded, reshard_
from ...model.fsdp.state import abandon_
from ...model.placement.homes import home
from ...model.placement.placed import placed
from ...model.roles import codes_dtype
from .swaps import Swaps
from .watch import Seen, Watch, plain

__all__ = ["Perturbation", "Shift"]

Shift = Callable[[str, Tensor], Tensor | None]  # name, parameter -> its shifted copy; None: as it is
MANY = 1000  # ways through a model that are remembered


class Perturbation:
    """Forward passes at shifted weights (MeZO, Malladi et al. 2023, without its in-place changes, which round).

    While a module computes, copies stand in for the parameters of its own, so that the extra memory is that of one
    module. Parameters that are used elsewhere (`F.linear(h, embedding.weight)`), in compiled code, or that belong to
    no module of `root` are `loose`: their `data` is a copy during the whole evaluation. Those of them that are fetched
    with a layer are `wide`: their `data` is a copy while their layer computes.

    Shards (FSDP2) are written: a layer is put together out of them when it computes, or before, whole layers may stay
    from one evaluation to the next, and no rank may look again for what was missed while others go on. So all
    parameters are loose where any is sharded, and whole layers are let go before and after each evaluation.

    Args:
        params: what can be shifted, by name.
        root: the model; None makes all of them loose.
        owners: by names in `params`, the modules of tensors that are no parameters but are used by one module alone.
    """

    def __init__(
        self, params: Mapping[str, Tensor], root: nn.Module | None, owners: Mapping[str, nn.Module] | None = None
    ):
        first = {id(p): name for name, p in reversed(list(params.items()))}
        self.params = {name: p for name, p in params.items() if first[id(p)] == name}
        self.owners = dict(owners or {})
        self._root = None if root is None else weakref.ref(root)
        self.sharded = any(map(is_sharded, self.params.values()))
        self.loose: set[str] = set(self.params) if self.sharded else set()
        self.wide: set[str] = set()
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

    @property
    def units(self) -> Sequence[tuple[nn.Module, Callable[[], None]]]:
        """The layers whose weights rest elsewhere, each with what fetches them."""
        root = self.root
        found = None if root is None else placed(root)
        return [] if found is None else [(u.module, partial(found.need, u)) for u in found.units]

    def reshard(self) -> None:
        """Free layers that FSDP2 has put together and keeps: they are not of the shards as they are now."""
        if self.sharded and (root := self.root) is not None:
            reshard_(root)

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
        known = len(self.loose) + len(self.wide)
        places = self._places()
        looks = watch or len(self.loose) + len(self.wide) > known
        watch = watch and bool(places or self.missed) and not self.sharded
        looks = looks and not self.sharded
        loose, self.missed = sorted(self.loose), frozenset()
        self._check(self.loose | self.wide)
        swaps = Swaps(self.params, places, shift, watch)
        copies = Seen({})
        try:
            try:
                self.reshard()
                swaps.begin(loose)
                copies = Seen({name: self.params[name] for name in loose})
                swaps.watch = Watch(swaps.seen, copies)
                swaps.fetch(self.units)
                with swaps.watch if watch or looks else nullcontext():
                    yield
            except BaseException:
                if self.sharded and swaps.computed and self.root is not None:
                    abandon_(self.root)
                raise
            finally:
                swaps.end()
        finally:
            swaps.end()  # once more, for an interrupt during the first
            self.reshard()
        _check_aliases(swaps.seen.names.intersection(loose))
        self.missed = self._missed(swaps, watch)
        self.unused = not (swaps.computed or copies.names) and (looks or self.sharded or self.unused)
        if looks:
            self.untouched = frozenset(self.params) - swaps.used - copies.names - swaps.seen.names
        self._spread(self.missed)
        self._check(self.missed)

    @contextmanager
    def together(self, shifts: Sequence[Shift]) -> Iterator[list[Swaps]]:
        """Do as `shifted` for several shifts at once, without watching: each has its own swaps, all of them asleep.

        Whoever computes wakes those of one evaluation at a time. On leaving, `strays` says whether any evaluation was
        one that must be watched.
        """
        places = self._places()
        self._check(self.loose | self.wide)
        lanes: list[Swaps] = []
        try:
            try:
                for shift in shifts:
                    lanes.append(Swaps(self.params, places, shift, False))
                    lanes[-1].begin(sorted(self.loose))
                    lanes[-1].sleep()
                yield lanes
            finally:
                _end(lanes)
        finally:
            _end(lanes)
        idle = self._idle
        self.strays = any(not lane.fired or lane.idle not in idle for lane in lanes)

    def _spread(self, missed: Set[str]) -> None:
        """Let what was used unshifted be shifted for longer: a weight that is fetched with a layer, during all of it.

        Raises HybridOptError for such a weight that is used outside of its layer.
        """
        fetched = {name for name in missed if home(self.params[name]) is not None}
        if found := sorted(fetched & self.wide):
            raise HybridOptError(
                f"parameter {found[0]!r} is used outside of the layer that it is fetched with, and cannot be shifted "
                "there; keep it out of zeroth-order training, or leave placement out"
            )
        self.wide |= fetched
        self.loose |= missed - fetched

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
        if self.sharded:
            return self._watched()
        names = {id(p): name for name, p in self.params.items() if name not in self.loose | self.wide}
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
        held = {name for module in found for _, name in found[module]}
        self._spread(self.params.keys() - self.loose - self.wide - held)
        self._spread(frozenset(n for m in elsewhere & found.keys() for _, n in found[m] if n not in self.wide))
        longer = self.loose | self.wide
        kept = {module: [place for place in places if place[1] not in longer] for module, places in found.items()}
        for name in self.wide:
            kept.setdefault(self._layer(name), []).append((None, name))
        return {module: places for module, places in kept.items() if places}

    def _watched(self):
        """Return the modules of loose parameters, which are watched as they compute, with nothing that stands in."""
        root, ids = self.root, set(map(id, self.params.values()))
        modules = [] if root is None else list(root.modules())
        own = [m for m in modules if any(id(p) in ids for p in m._parameters.values())]
        return {module: [] for module in (*own, *self.owners.values())}

    def _layer(self, name: str) -> nn.Module:
        """Return the module of the layer with which a parameter is fetched."""
        found = home(self.params[name])
        assert found is not None  # it was when it was found to be wide
        return found.module

    def _check(self, loose):
        for name, p in self.params.items():
            if p.is_meta:
                raise HybridOptError(
                    f"parameter {name!r} is on the meta device (offloaded, or not loaded), where it has no values to "
                    "shift; load it to the CPU or an accelerator, or keep it out of zeroth-order training"
                )
            if self.sharded and is_sharded(p) and codes_dtype(p) is not None:
                raise HybridOptError(
                    f"parameter {name!r} is sharded, and kept as codes of {codes_dtype(p)}: shards are shifted where "
                    "they lie, and codes would round small shifts away. Train by probes in one process or with "
                    "replicas, or without quantization='int8-trainable'"
                )
            if name in loose and not (plain(p) or is_sharded(p)):
                raise HybridOptError(
                    f"parameter {name!r} ({type(p.data).__name__}) is used outside the forward of its own module, or "
                    "in compiled code, and cannot be shifted there without writing to it; keep it out of zeroth-order "
                    "training, or do without torch.compile or quantization='int8-trainable' here"
                )


def _end(lanes):
    for lane in lanes:
        lane.end()


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
