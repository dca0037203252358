"""What would move, cast, load or merge weights that rest elsewhere is refused, or leaves them alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....core.contracts import Piece, PlacedUnit
from ....core.errors import HybridOptError
from ...adapters import bare
from ..homes import home
from ..placement import Placement
from .copies import Copied, Overridden

__all__ = ["Guarded", "guard", "not_trained"]

Held = Sequence[tuple[str, Tensor]]  # weights, by the names in the module that a state dict is loaded into


class Guarded(Protocol):
    """A placed model, as its guards know it."""

    placement: Placement
    device: torch.device

    @property
    def units(self) -> list[PlacedUnit]:
        """Return its units."""

    @property
    def aside(self) -> list[Tensor]:
        """Return what stays on the host."""

    def rest(self) -> None:
        """Let every weight be where it rests."""


def guard(model: nn.Module, placed: Guarded) -> list[Any]:
    """Keep what moves or writes whole models from the weights of its units; return what can be removed again.

    Args:
        model: of which layers are placed.
        placed: its placement.
    """
    whole = bare(model)
    kept = {id(p) for unit in placed.units for p in _tensors(unit)} | {id(p) for p in placed.aside}
    first = placed.units[0].pieces[0].tensor
    state = _State(whole, placed, first)
    holders, loaded = _holders(whole, kept), _Loaded(first)
    found: list[Any] = [Overridden(m, "_apply", _Apply(m, placed, kept)) for m in holders]
    found += [m.register_load_state_dict_pre_hook(state) for m in holders]
    found += [m.register_load_state_dict_post_hook(loaded) for m in holders]
    return found + [
        _watched(piece, placed) for unit in placed.units for piece in unit.pieces if _takes_gradients(piece)
    ]


def _tensors(unit: PlacedUnit) -> Iterator[Tensor]:
    for piece in unit.pieces:
        yield from (piece.tensor, *piece.also)


def _holders(model: nn.Module, kept: set[int]) -> list[nn.Module]:
    """Return the modules that hold one of some tensors, and all that these lie in."""
    names = {n for n, m in model.named_modules() if any(id(p) in kept for p in m._parameters.values())}
    above = {name.rsplit(".", depth)[0] for name in names for depth in range(name.count(".") + 1)} | {""}
    return [model.get_submodule(name) for name in sorted(above)]


class _Apply:
    """What `.to()`, `.cuda()`, `.half()` and such do to a module: nothing to weights of units, or an error."""

    def __init__(self, module: nn.Module, placed: Guarded, kept: set[int]):
        self._module, self._placed, self._kept = module, placed, kept

    def __call__(self, plain: Callable[..., Any], fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        for dtype in {x.dtype for unit in self._placed.units for x in _tensors(unit)}:
            probe = torch.ones(1, dtype=dtype, device=self._placed.device)
            shared = probe.is_shared()
            found = fn(probe)
            if (found.device, found.dtype) != (probe.device, probe.dtype):
                self._refuse(probe, found)
            if found is not probe or probe.is_shared() != shared or probe.item() != 1:
                self._refuse_values()
        module = self._module
        held = dict(module._parameters)
        for name in [name for name, p in held.items() if id(p) in self._kept]:
            del module._parameters[name]
        try:
            return plain(fn, *args, **kwargs)
        finally:
            now = dict(module._parameters)
            module._parameters.clear()
            module._parameters.update({name: now.get(name, p) for name, p in held.items()})

    def _refuse_values(self) -> None:
        raise HybridOptError(
            f"weights of {type(self._module).__name__} rest on {self._where}, and are not given other memory or "
            "values, as to_empty(), share_memory() and _apply() of own functions do; call model.hybrid.unwrap() "
            "first, or load the model without placement",
            "placement",
        )

    @property
    def _where(self) -> str:
        return "disk" if self._placed.placement.base == "disk" else "the host"

    def _refuse(self, now: Tensor, then: Tensor) -> None:
        kind = type(self._module).__name__
        wanted = f"to {str(then.device)!r}" if then.device != now.device else f"from {now.dtype} to {then.dtype}"
        raise HybridOptError(
            f"{kind} cannot go {wanted}: its weights rest on {self._where}, for "
            f"{str(now.device)!r} that computes, in the dtype that they have. Load it for another device or dtype "
            "(hybridopt.load(..., device=..., dtype=...)), or end the placement by model.hybrid.unwrap()",
            "placement",
        )


class _State(Copied):
    """What is loaded into a model by `load_state_dict` finds all weights at rest; the base is not written."""

    def __init__(self, model: nn.Module, placed: Guarded, first: Tensor):
        super().__init__(first, first=True)
        self._model, self._placed = model, placed

    def __call__(self, module: nn.Module, state: dict[str, Tensor], prefix: str, how: dict[str, Any], *_: Any) -> None:
        kept = {id(piece.tensor) for unit in self._placed.units for piece in unit.pieces}
        kept |= {id(p) for p in self._placed.aside}
        named = [(n, p, state.get(f"{prefix}{n}")) for n, p in module.named_parameters() if id(p) in kept]
        held = [(n, p) for n, p, x in named if x is not None and x is not p]
        if held and torch.__future__.get_swap_module_params_on_conversion():
            raise HybridOptError(
                f"load_state_dict would swap {held[0][0]!r}, which rests elsewhere, with another tensor: call "
                "torch.__future__.set_swap_module_params_on_conversion(False) before",
                "placement",
            )
        if held or module is self._model:
            self._placed.rest()
        assigns = bool(how.get("assign_to_params_buffers"))
        if held and (assigns or self._placed.placement.base == "disk"):
            self._check(held, state, prefix, assigns)
            self._give(held, state, prefix)

    def _check(self, held: Held, state: dict[str, Tensor], prefix: str, assigns: bool) -> None:
        """Raise HybridOptError for values that weights cannot be given where they rest."""
        fixed = [n for n, p in held if home(p) is None or not p.is_floating_point()]
        if self._placed.placement.base == "disk" and (self._placed.placement.cache is None or fixed):
            raise HybridOptError(
                f"load_state_dict would write {(fixed or [held[0][0]])[0]!r}, which rests in a file that is never "
                "written; name a folder for such weights, placement=hybridopt.Placement('disk', cache='folder'), or "
                "load the model without placement, or from a folder with those values",
                "placement",
            )
        other = next((n for n, p in held if state[f"{prefix}{n}"].dtype != p.dtype), None) if assigns else None
        if other is not None:
            dtype = state[f"{prefix}{other}"].dtype
            raise HybridOptError(
                f"load_state_dict(assign=True) would make {other!r} {dtype}, and it rests in the dtype that it has; "
                f"load the model with dtype={dtype}, or leave assign=True out",
                "placement",
            )

    @staticmethod
    def _give(held: Held, state: dict[str, Tensor], prefix: str) -> None:
        """Write the values of weights to where they rest; torch finds the weights themselves in the state dict."""
        for name, p in held:
            if (values := state[f"{prefix}{name}"]).shape == p.shape:
                if (found := home(p)) is not None:
                    found.assign(values.detach().to(p.dtype))
                else:
                    p.data.copy_(values.detach())
                state[f"{prefix}{name}"] = p


class _Loaded(Copied):
    """Torch has copied weights onto themselves that were given values before: nobody's own write."""

    def __call__(self, module: nn.Module, *_: Any) -> None:
        for p in module._parameters.values():
            if p is not None and (found := home(p)) is not None:
                found.written()


def _takes_gradients(piece: Piece) -> bool:
    return piece.tensor.is_leaf and piece.tensor.is_floating_point()


def _watched(piece: Piece, placed: Guarded) -> RemovableHandle:
    """Refuse gradients of a weight, also of one that is made to take some later: other optimizers would use them."""
    x, takes = piece.tensor, piece.tensor.requires_grad
    handle = x.requires_grad_(True).register_hook(_Gradient(placed, piece.name))
    x.requires_grad_(takes)
    return handle


class _Gradient:
    """A gradient has reached a weight of a unit."""

    def __init__(self, placed: Guarded, name: str):
        self._placed, self._name = placed, name

    def __call__(self, gradient: Tensor) -> None:
        raise HybridOptError(not_trained(self._placed.placement.base, self._name), "placement")


def not_trained(base: str, name: str) -> str:
    """Return that a weight which rests elsewhere is not trained by backward passes, and what to do instead."""
    return (
        f"{name!r} rests on {'disk' if base == 'disk' else 'the host'}, and what rests there is not trained by "
        "backward passes; add adapters (peft_config=LoraConfig(...)), take a policy without backward passes "
        "(policy='mezo'), or load the model without placement"
    )
