"""State dicts read into quantized layers, whatever state these are in: bitsandbytes itself leaves scales out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core.contracts import Shape
from hybridopt.core.errors import HybridOptError

__all__ = ["Given", "check_form", "form_of", "fresh", "listen"]


def listen(layer: nn.Module, hook: Callable[..., None]) -> None:
    """Call `hook` whenever a state dict is loaded into `layer`; once, however often this is asked for."""
    known = (getattr(each, "hook", each) for each in layer._load_state_dict_pre_hooks.values())
    if all(each != hook for each in known):
        layer.register_load_state_dict_pre_hook(hook)


@dataclass(frozen=True)
class Given:
    """What a state dict has for the weight of a layer.

    Args:
        name: of the weight in the state dict.
        weight: codes, or values in full precision.
        beside: what says what codes stand for, by its name after that of the layer.
        assigned: is it going to take the place of the weight, as load_state_dict(assign=True) asks for?
    """

    name: str
    weight: Tensor
    beside: dict[str, Tensor]
    assigned: bool

    @property
    def dense(self) -> bool:
        """Are these values in full precision?"""
        return self.weight.is_floating_point()

    def state(self) -> Any:
        """Return what bitsandbytes makes of what says what 4-bit codes stand for; it shares memory with that.

        Raises:
            HybridOptError: it can make nothing of it.
        """
        from bitsandbytes.functional import QuantState

        told = {name.removeprefix("weight."): x for name, x in self.beside.items()}
        try:
            return QuantState.from_dict(told, self.weight.device)
        except Exception as error:  # bitsandbytes raises many types
            raise HybridOptError(
                f"the state dict says of {self.name!r} what bitsandbytes cannot read ({error!r}); give what the "
                "model's own state_dict() has returned"
            ) from error

    @staticmethod
    def take(
        state: dict[str, Any], prefix: str, local: dict[str, Any], names: Callable[[str], bool], shape: Shape
    ) -> "Given | None":
        """Take what is there for a layer out of a state dict, but for the weight; None where that is nothing.

        Args:
            state: the state dict.
            prefix: of the names of the layer in it.
            local: what torch says of this loading.
            names: whether something of this name after `prefix` says what codes stand for.
            shape: of the weight, [out, in].

        Raises:
            HybridOptError: there are codes alone, or without them, or values of another shape.
        """
        own = [key for key in state if key.startswith(prefix) and names(key.removeprefix(prefix))]
        beside = {key.removeprefix(prefix): state.pop(key) for key in own}
        name = f"{prefix}weight"
        weight = state.get(name)
        if weight is None and not beside:
            return None
        if weight is None or (not beside and not weight.is_floating_point()):
            there, missing = (name, "the scales of its codes") if weight is not None else (own[0], repr(name))
            raise HybridOptError(
                f"the state dict holds {there!r} without {missing}; give all that the model's own state_dict() has "
                "returned, or weights in full precision"
            )
        if weight.is_floating_point() and tuple(weight.shape) != shape:
            raise HybridOptError(f"the state dict holds {name!r} of shape {tuple(weight.shape)}, the model {shape}")
        return Given(name, weight, beside, bool(local.get("assign_to_params_buffers")))


def form_of(codes: Tensor, state: Any) -> dict[str, object]:
    """Return what must agree of 4-bit codes and the state of bitsandbytes that belongs to them, by a word for it."""
    return {
        "codes": (codes.dtype, tuple(codes.shape)),
        "shape": tuple(state.shape),
        "table": state.quant_type,
        "blocks of": state.blocksize,
        "scales": state.absmax.numel(),
    }


def check_form(name: str, given: Mapping[str, object], own: Mapping[str, object]) -> None:
    """Raise HybridOptError unless a weight in a state dict is quantized as that of the layer is.

    Args:
        name: of the weight.
        given: what must agree, by a word for it.
        own: the same of the layer's.
    """
    if odd := next((word for word in own if given[word] != own[word]), None):
        raise HybridOptError(
            f"the state dict holds {name!r} with {odd} {given[odd]}, the model with {own[odd]}; quantize the model as "
            "it was, or give weights in full precision"
        )


def fresh(x: Tensor, device: torch.device) -> Tensor:
    """Return a copy of a tensor on a device, which a state dict and a model do not share."""
    return x.detach().to(device, copy=True)
