"""What stands in for parameters in one evaluation, and how it is put back."""

from collections import Counter
from functools import partial

import torch
from torch import Tensor, nn

from ...model.fsdp.sharded_tensors import is_sharded, local
from ...model.placement.homes import home, near
from .watch import Seen, Watch

__all__ = ["Swaps"]


class Swaps:
    """The hooks of one evaluation, and everything that must be put back after it.

    Args:
        params: what can be shifted, by name.
        places: by module, (attribute, name) of what stands in for what while it computes; attribute None: `data` does.
        shift: gives the copies.
        watch: is it watched which parameters are used unshifted?
    """

    def __init__(self, params, places, shift, watch):
        self._params, self._places, self._shift = params, places, shift
        self._watched = watch
        self._fetched = {name: p for name, p in params.items() if watch and home(p) is not None}
        self.seen = Seen({name: p for name, p in params.items() if watch and name not in self._fetched})
        self.seen.move(self._fetched)
        self.watch = Watch()
        self._depth: Counter[nn.Module] = Counter()
        self._own: dict[tuple[nn.Module, str], tuple[str, nn.Parameter]] = {}
        self._data: dict[str, Tensor] = {}
        self._fired: set[tuple[nn.Module, str | None, str]] = set()
        self._began = False  # has any of the modules computed?
        self._handles = []
        self._awake = True
        self._copies: list[tuple[nn.Module, str, nn.Parameter]] = []  # while it is asleep
        self._shifted: dict[str, Tensor] = {}

    def begin(self, loose):
        """Let copies stand in from now on; for `loose` parameters, by name, at once."""
        torch.clear_autocast_cache()  # it knows casts by parameter, whatever its `data`
        for name in loose:
            self._move(name)
        for module in self._places:
            self._handles.append(module.register_forward_pre_hook(self._before, prepend=True))
            self._handles.append(module.register_forward_hook(self._after, always_call=True))

    def fetch(self, units):
        """Fetch the weights of layers before anything stands in for them.

        units: (module, what fetches its weights).
        """

        def first(get, *_):
            self.watch.quiet = True
            try:
                get()
                self.seen.move(self._fetched)
            finally:
                self.watch.quiet = False

        for module, get in units:
            self._handles.append(module.register_forward_pre_hook(partial(first, get), prepend=True))

    def sleep(self):
        """Put everything back for a while, in which another evaluation goes on."""
        if not self._awake:
            return
        self._awake = False
        for (module, attribute), (name, copy) in self._own.items():
            if module._parameters.get(attribute) is copy:
                module._parameters[attribute] = self._params[name]
                self._copies.append((module, attribute, copy))
        for name, data in self._data.items():
            self._shifted[name] = self._params[name].data
            self._params[name].data = data

    def wake(self):
        """Let everything stand in that did before `sleep`."""
        for module, attribute, copy in self._copies:
            module._parameters[attribute] = copy
        for name, shifted in self._shifted.items():
            self._data[name] = self._params[name].data  # which a fetch may have moved
            self._params[name].data = shifted
        self._copies, self._shifted, self._awake = [], {}, True
        torch.clear_autocast_cache()

    def end(self):
        """Put everything back; may be interrupted and called again."""
        for handle in self._handles:
            handle.remove()
        if not self._awake:
            self._own, self._data = {}, {}
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
    def computed(self):
        """Did any module compute, be it with a copy that was in its place already?"""
        return self._began or self.fired

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
        if not self._awake or torch.compiler.is_compiling():
            return
        self._depth[module] += 1
        if self._depth[module] > 1:
            return
        self._began = self._began or not self._places[module]
        self.watch.quiet = True
        try:
            for place in self._places[module]:
                self._stand_in(module, *place)
        finally:
            self.watch.quiet = False

    def _after(self, module, *_):
        if not self._awake or torch.compiler.is_compiling() or not self._depth[module]:
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
            stand_in = nn.Parameter(copy, requires_grad=False)
            self._own[module, attribute] = name, stand_in
            module._parameters[attribute] = stand_in
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
            if is_sharded(p):
                shard = local(p).data  # .data: no new version, as the values will be the old ones
                self._data[name] = shard.clone()
                shard.copy_(copy)
                return
            self._data[name] = p.data
            p.data = copy

    def _move_back(self, name):
        if name in self._data:
            p = self._params[name]
            if is_sharded(p):
                local(p).data.copy_(self._data[name])
            else:
                p.data = self._data[name]
            del self._data[name]

    def _copy(self, name):
        p = near(self._params[name])
        copy = self._shift(name, p)
        if is_sharded(p):
            return copy
        return p.detach().clone() if copy is None and self._watched else copy  # all copies, for the watch to tell
