"""One value per axis: how a parameter is trained. Pure data."""

from dataclasses import dataclass, field, replace

import torch

from ..core.contracts import Codec, GapSchedule, ParameterInfo, Rule, Source, Split, Store
from ..core.contracts.check import check_part
from ..core.errors import HybridOptError, check_number
from ..parts.codecs.fp32 import Fp32
from ..parts.rules.adamw import AdamW
from ..parts.rules.signsgd import SignSGD
from ..parts.sources.backprop import Backprop
from ..parts.splits.whole import Whole
from ..parts.stores.bf16_stochastic import Bf16Stochastic
from ..parts.stores.dense import Dense
from ..parts.stores.int8_trainable import Int8Trainable

__all__ = ["Treatment"]


@dataclass(frozen=True)
class Treatment:
    """How one parameter is trained.

    full, free: the rules of the state-full and of the state-free part. split: which part is state-full, and how often
    it is chosen anew. codec: how state is kept. store: how the weight is kept (None: stochastic rounding for bfloat16
    and 8-bit codes, as torch does otherwise). lr_scale multiplies every update, free_lr_scale the state-free ones
    besides; decay uses the plain lr. weight_decay: None takes the optimizer's. reset: forget the state when the split
    is chosen anew. source: where the gradient comes from, the backward pass or probes of the loss. gap: how long
    windows are after the first, by the losses that `optimizer.observe` is told; None: all have `update_gap` steps.
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
    gap: GapSchedule | None = None

    def __post_init__(self) -> None:
        self._check_parts()
        check_number("Treatment", "lr_scale", self.lr_scale, 0)
        check_number("Treatment", "free_lr_scale", self.free_lr_scale, 0)
        if self.weight_decay is not None:
            check_number("Treatment", "weight_decay", self.weight_decay, 0)
        if not isinstance(self.reset, bool):
            raise HybridOptError(f"reset={self.reset!r} is not allowed; give True or False", "Treatment")
        if self.free.slots((2, 2)):
            raise HybridOptError(
                f"free={self.free!r} keeps state; a state-free rule has none: signsgd, sgd or no_update"
            )
        if self.tag == "state-free" and self.free.idle:
            raise HybridOptError(
                "free='no_update' without a state-full part trains nothing; freeze the parameter instead (None in a "
                "Route, 'frozen' in a policy), or take density > 0, signsgd or sgd"
            )
        if self.gap is not None:
            self._check_gap(self.gap)
        if not self.reset and callable(self.split.density):
            raise HybridOptError("reset=False keeps state over windows and needs a constant density; got a schedule")

    def _check_gap(self, gap: GapSchedule) -> None:
        if not callable(gap):
            raise HybridOptError(f"gap={gap!r} is not allowed; give a GapSchedule, such as Stalling()", "Treatment")
        _check_hashable("gap", gap)
        if not self.split.update_gap or self.split.spread:
            raise HybridOptError(
                f"gap={gap!r} is for windows that begin in the same step for all; split={self.split!r} has none such: "
                "take columns, rows, randk or block, or spread=False"
            )

    def _check_parts(self) -> None:
        check_part("Treatment", "full", self.full, Rule)
        check_part("Treatment", "free", self.free, Rule)
        check_part("Treatment", "split", self.split, Split)
        check_part("Treatment", "codec", self.codec, Codec)
        if self.store is not None:
            check_part("Treatment", "store", self.store, Store)
        check_part("Treatment", "source", self.source, Source)
        parts = (self.full, self.free, self.split, self.codec, self.store, self.source)
        for axis, part in zip(("full", "free", "split", "codec", "store", "source"), parts, strict=True):
            _check_hashable(axis, part)

    @property
    def tag(self) -> str:
        """Return "state-full", "state-free", or "split" where it is neither in every window."""
        density = self.split.constant()
        return "split" if density is None else {0.0: "state-free", 1.0: "state-full"}.get(density, "split")

    @property
    def probed(self) -> bool:
        """Return whether the gradient comes from probes of the loss, or partly so."""
        return self.source.scheme is not None

    @property
    def acting(self) -> tuple[Rule, ...]:
        """Return the rules that are at work in some window."""
        return {"state-full": (self.full,), "state-free": (self.free,)}.get(self.tag, (self.full, self.free))

    def rule(self, axis: str) -> Rule:
        """Return the rule of an axis, "full" or "free"."""
        return self.full if axis == "full" else self.free

    def fit(self, param: ParameterInfo) -> "Treatment":
        """Return this treatment with its rules fitted to one parameter."""
        full, free = self.full.fit(param), self.free.fit(param)
        same = full is self.full and free is self.free
        return self if same else replace(self, full=full, free=free)

    def store_for(self, dtype: torch.dtype) -> Store | None:
        """Return the store that keeps a weight of this dtype, or codes of it; None where none can."""
        stores = (Bf16Stochastic(), Dense(), Int8Trainable()) if self.store is None else (self.store,)
        return next((s for s in stores if s.fits(dtype)), None)


def _check_hashable(axis: str, part: object) -> None:
    try:
        hash(part)
    except TypeError as error:
        raise HybridOptError(
            f"{axis}={part!r} is not allowed: {error}; make its class a dataclass(frozen=True), with "
            "tuples in place of lists",
            "Treatment",
        ) from error
