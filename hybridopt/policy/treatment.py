"""One value per axis: how a parameter is trained. Pure data."""

from dataclasses import dataclass, field, replace

import torch

from ..core.contracts import Codec, Rule, Source, Split, Store
from ..core.errors import HybridOptError, check_number
from ..model.roles import Param
from ..parts.codecs.fp32 import Fp32
from ..parts.rules.adamw import AdamW
from ..parts.rules.signsgd import SignSGD
from ..parts.sources.backprop import Backprop
from ..parts.splits.empty import Empty
from ..parts.splits.whole import Whole
from ..parts.stores.bf16_stochastic import Bf16Stochastic
from ..parts.stores.dense import Dense
from ..parts.stores.int8_trainable import Int8Trainable

__all__ = ["Treatment"]

METHODS = {  # by which the parts of an axis are known
    "full": ("slots", "update"),
    "free": ("slots", "update"),
    "split": ("at",),
    "codec": ("raw", "load", "store"),
    "store": ("fits", "write_"),
    "source": ("noise", "weights"),
}


@dataclass(frozen=True)
class Treatment:
    """How one parameter is trained.

    full, free: the rules of the state-full and of the state-free part. split: which part is state-full, and how often
    it is chosen anew. codec: how state is kept. store: how the weight is kept (None: stochastic rounding for bfloat16
    and 8-bit codes, as torch does otherwise). lr_scale multiplies every update, free_lr_scale the state-free ones
    besides; decay uses the plain lr. weight_decay: None takes the optimizer's. reset: forget the state when the split
    is chosen anew. source: where the gradient comes from, the backward pass or probes of the loss.
    """

    full: Rule = field(default_factory=AdamW)
    free: Rule = field(default_factory=SignSGD)
    split: Split = field(default_factory=Whole)
    codec: Codec = field(default_factory=Fp32)
    store: Store | None = None
    lr_scale: float = 1.0
    free_lr_scale: float = 1.0
    weight_decay: float | None = None
    reset: bool = True
    source: Source = field(default_factory=Backprop)

    def __post_init__(self):
        for name, methods in METHODS.items():
            _check_part(name, getattr(self, name), methods)
        for name in ("lr_scale", "free_lr_scale"):
            check_number("Treatment", name, getattr(self, name), 0)
        if self.weight_decay is not None:
            check_number("Treatment", "weight_decay", self.weight_decay, 0)
        if not isinstance(self.reset, bool):
            raise HybridOptError(f"Treatment: reset={self.reset!r} is not allowed; give True or False")
        if self.free.slots((2, 2)):
            raise HybridOptError(
                f"free={self.free!r} keeps state; a state-free rule has none: signsgd, sgd or no_update"
            )
        if self.tag == "state-free" and getattr(self.free, "idle", False):
            raise HybridOptError(
                "free='no_update' without a state-full part trains nothing; freeze the parameter instead (None in a "
                "Route, 'frozen' in a policy), or take density > 0, signsgd or sgd"
            )
        if not self.reset and callable(getattr(self.split, "density", None)):
            raise HybridOptError("reset=False keeps state over windows and needs a constant density; got a schedule")

    @property
    def tag(self) -> str:
        """state-full, state-free or split."""
        density = {Whole: 1, Empty: 0}.get(type(self.split), getattr(self.split, "density", None))
        if getattr(self.split, "blocks", None) is not None:
            return "split"
        return {0: "state-free", 1: "state-full"}.get(density, "split") if not callable(density) else "split"

    @property
    def probed(self) -> bool:
        """Does its gradient come from probes of the loss, or partly so?"""
        return self.source.scheme is not None

    @property
    def acting(self) -> tuple[Rule, ...]:
        """The rules that are at work in some window."""
        return {"state-full": (self.full,), "state-free": (self.free,)}.get(self.tag, (self.full, self.free))

    def fit(self, param: Param) -> "Treatment":
        """This treatment with its rules fitted to one parameter, those that have a `fit`."""
        rules = {axis: getattr(self, axis) for axis in ("full", "free")}
        fitted = {axis: rule.fit(param) for axis, rule in rules.items() if hasattr(rule, "fit")}
        return replace(self, **fitted) if any(fitted[axis] is not rules[axis] for axis in fitted) else self

    def store_for(self, dtype: torch.dtype) -> Store | None:
        """The store that keeps a weight of this dtype, or codes of it; None where none can."""
        stores = (Bf16Stochastic(), Dense(), Int8Trainable()) if self.store is None else (self.store,)
        return next((s for s in stores if s.fits(dtype)), None)


def _check_part(name, value, methods):
    fits = not isinstance(value, type) and all(callable(getattr(value, method, None)) for method in methods)
    if not fits and not (name == "store" and value is None):
        raise HybridOptError(
            f"Treatment: {name}={value!r} is not allowed; give an instance with the methods {', '.join(methods)}"
        )
