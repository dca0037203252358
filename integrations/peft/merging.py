"""Saved adapters merged into the weights of their base, one layer at a time, by PEFT's own layers."""

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError
from hybridopt.model.loading.matching import shared_names
from hybridopt.model.loading.weight_files import Stored, in_file, read
from hybridopt.model.roles import base_name

from . import starts, tree
from .loaded import check_saved, saved_config
from .rehearsal import quiet, state
from .saved import WEIGHTS, folder_of, has_embeddings

__all__ = ["PeftMerging"]

Source = Callable[[str], Tensor]
Slot = tuple[dict[str, Any], str]  # where a module keeps a tensor


class PeftMerging:
    """What becomes of the tensors of a base when adapters are merged into it; a layer is read when it is asked for.

    Args:
        base: on the meta device; changed in place, and of no further use.
        folder: what `save` has written.
        adapters: names of all adapters in it.
        active: those that are merged.
        injected: were the adapters put into the model itself?

    Raises:
        HybridOptError: for adapters that do not fit the base.
    """

    def __init__(
        self, base: nn.Module, folder: Path, adapters: Sequence[str], active: Sequence[str], injected: bool = False
    ):
        check_saved(base, folder, adapters, active, injected)
        self.ties = {name: names for names in shared_names(base) for name in names}
        self.active = list(active)
        with quiet():
            model = _empty(base, folder, adapters, self.active)
        self.places: dict[int, Stored] = {}
        for name in adapters:
            self._place(state(model, name, has_embeddings(model)), in_file(folder / folder_of(name) / WEIGHTS))
        self.model = model  # what keeps the tensors, by whose identity they are known
        self.own: dict[str, Tensor] = {}
        self.copied: dict[str, Tensor] = {}
        self.layers: dict[str, nn.Module] = {}
        self.members: dict[str, str] = {}  # of the base's own layer
        self._walk()

    @property
    def names(self) -> set[str]:
        """The names of all tensors of the base that change."""
        held = {name for name, x in self.own.items() if id(x) in self.places}
        return held | self.layers.keys() | self.copied.keys()

    def groups(self, name: str) -> list[list[str]]:
        """Return the names that a tensor shares, in groups that still have the same values after merging.

        An adapter on one of two tied layers changes that one alone, as it did in training.
        """
        found: dict[int, list[str]] = {}
        for each in self.ties[name]:
            found.setdefault(self._owner(each), []).append(each)
        return list(found.values())

    @torch.no_grad()
    def value(self, name: str, source: Source) -> Tensor:
        """Return a tensor of the base with the active adapters merged into it, computed in float32.

        Args:
            name: of the tensor, as in `names`.
            source: returns a tensor of the base without adapters.
        """
        if name in self.copied:
            return self._filed(self.copied[name], name, source)
        x = self._filed(self.own[name], name, source)
        return self._merged(name, x, source) if name in self.layers else x

    def _owner(self, name: str) -> int:
        """Return a number that is the same for names of one tensor that become the same value."""
        from peft.tuners.trainable_tokens import TrainableTokensLayer

        if name in self.copied:
            return id(self.copied[name])
        layer = self.layers.get(name)
        for each in () if layer is None else layer.modules():
            if isinstance(each, TrainableTokensLayer):  # of tied layers it trains the same tokens
                return id(each.tied_adapter or each)
        return id(layer)

    def _place(self, live: dict[str, Tensor], there: dict[str, Stored]) -> None:
        for key, entry in there.items():
            self.places[id(live[key])] = entry

    def _walk(self) -> None:
        """Note which tensors of the base lie in which layer of PEFT's."""
        tops: list[str] = []
        for path, module in self.model.named_modules():
            if tree.adapts(module) and not any(path.startswith(f"{top}.") for top in tops):
                tops.append(path)
                self._note(path, module)
        for path, module in self.model.named_modules(remove_duplicate=False):
            if not any(path == top or path.startswith(f"{top}.") for top in tops):
                for name, x in (*module._parameters.items(), *module._buffers.items()):
                    if x is not None:
                        self.own.setdefault(base_name(f"{path}.{name}"), x)

    def _note(self, path: str, module: Any) -> None:
        inner = tree.inner(module)
        own = {base_name(f"{path}.{n}"): x for n, x in inner.state_dict(keep_vars=True).items()}
        self.members |= {base_name(f"{path}.{n}"): n for n in inner.state_dict()}
        self.own |= own
        if not tree.copies(module):
            self.layers |= dict.fromkeys(own, module)
            return
        copy = next((module.modules_to_save[name] for name in self.active if name in module.modules_to_save), None)
        if copy is not None:
            self.copied |= {base_name(f"{path}.{n}"): x for n, x in copy.state_dict(keep_vars=True).items()}

    def _filed(self, x: Tensor, name: str, source: Source) -> Tensor:
        """Return the value of a tensor that lies in the file of an adapter, or else in the base."""
        return read(self.places[id(x)]) if id(x) in self.places else source(name)

    def _merged(self, name: str, x: Tensor, source: Source) -> Tensor:
        """Return what a layer makes of its base tensor `name`, of value `x`, when its adapters are merged."""
        layer, target = self.layers[name], self.own[name]
        slots, modules = list(_slots(layer)), [(each._modules, dict(each._modules)) for each in layer.modules()]
        owned = {id(x): each for each, x in self.own.items() if self.layers.get(each) is layer}
        try:
            for (place, key), old in slots:
                value = x if old is target else self._known(old, owned, source)
                if value is not None:
                    value = value.to(torch.float32, copy=True) if value.is_floating_point() else value.clone()
                    place[key] = nn.Parameter(value, False) if isinstance(old, nn.Parameter) else value
            self._merge(layer, name)
            found = attrgetter(self.members[name])(tree.inner(layer))
        finally:
            for (place, key), old in slots:
                place[key] = old
            for now, before in modules:  # some tuners put a layer of their own in the place of the base's
                now.clear()
                now.update(before)
        if found.is_meta:
            raise HybridOptError(f"{name!r}: {_refusal(layer)}")
        return found.detach()

    def _known(self, old: Tensor, owned: dict[int, str], source: Source) -> Tensor | None:
        if id(old) in self.places:
            return read(self.places[id(old)])
        return source(owned[id(old)]) if id(old) in owned else None

    def _merge(self, layer: nn.Module, name: str) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for each in reversed(list(layer.modules())):  # of layers within layers the inner ones first
            if not isinstance(each, BaseTunerLayer):
                continue
            try:
                with quiet():
                    each.merge(adapter_names=self.active)
            except Exception as error:  # PEFT raises many types
                text = f"{type(error).__name__}: {str(error)[:200]}"
                raise HybridOptError(f"{name!r}: {_refusal(each)} ({text})") from error
            each.merged_adapters.clear()


def _empty(base: nn.Module, folder: Path, adapters: Sequence[str], active: list[str]) -> Any:
    """Return the PeftModel of a model without memory, all of whose adapters are without memory, too."""
    from peft import get_peft_model

    model: Any = None
    for name in adapters:
        config = saved_config(folder / folder_of(name))
        try:
            with starts.plainly(config):
                if model is None:
                    model = get_peft_model(base, config, name, low_cpu_mem_usage=True)
                else:
                    model.add_adapter(name, config, low_cpu_mem_usage=True)
        except Exception as error:  # PEFT raises many types
            raise HybridOptError(
                f"adapter {name!r} ({type(config).__name__}) must see all weights at once, so it cannot be merged "
                f"layer by layer: load base and adapter in Python and call merge_and_unload() ({error!s:.200})"
            ) from error
    if len(active) > 1:
        model.base_model.set_adapter(active)
    else:
        model.set_adapter(active[0])
    return model


def _slots(layer: nn.Module) -> Iterator[tuple[Slot, Tensor]]:
    """Yield where each tensor of a layer and all in it is kept, and the tensor."""
    for module in layer.modules():
        for place in (module._parameters, module._buffers):
            yield from (((place, key), x) for key, x in place.items() if x is not None and x.is_meta)


def _refusal(layer: nn.Module) -> str:
    kind = type(layer)
    return (
        f"PEFT cannot merge its {kind.__module__}.{kind.__name__} into the weight of one layer alone; load base and "
        "adapter in Python and call merge_and_unload(), or keep the adapter apart"
    )
