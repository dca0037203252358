"""Every combination of parts: how it is asked for, and whether it is refused.

By backprop all of full rule x split x codec x store x adapters. The free rule and the release take turns, so that each
pair of them meets each full rule under each split, and each codec with each store and adapters. A sixth of these are
walked by default: under each full rule, and under each split, every two values of codec, store and adapters meet. By
the other sources all of source x full rule x split, where the other axes are drawn so that every two values meet.
"""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch

import hybridopt
from hybridopt import HybridOptError, Policy, Route, Treatment
from hybridopt.core.contracts import stream
from hybridopt.core.registry import names
from hybridopt.model.roles import params
from hybridopt.policy.plan import Plan
from support.grid.task import LINEAR, Reader, build, lora
from support.parts import CODECS, RULES, SOURCES, SPLITS, split_of
from support.parts import STORES as ALL_STORES
from support.quantization import quantize_

DENSITY, GAP, DECAY = 0.34, 2, 0.01  # decay: of the weights, a step
ADAPTERS = ("full", "LoRA", "LoRA + nf4")
STORES = {name: store for name, store in ALL_STORES.items() if store.roles is None}  # for weights of any role
FREE = tuple(name for name, rule in RULES.items() if not rule().slots((2, 2)))
RELEASES = names("releases")
OPTIONS = dict.fromkeys(
    ("int8", "companded8"), {"block": 16, "exact_below": 0}
)  # so that the smallest state is kept in 8 bits, too
LR = {  # with which four steps show
    "adafactor": 0.1,
    "adalomo": 0.1,
    "apollo": 1e-3,
    "came": 1e-3,
    "momentum": 0.3,
    "muon": 5e-2,
    "normalized_sgd": 0.3,
    "sgd": 0.3,
}
BARE = LR | {"sgd": 2.0}  # without adapters, whose gradients are larger
STEEP = {"sgd": 1e-2, "momentum": 1e-2}  # along random directions, which are longer than gradients
TRAINED = "linear|adapter"
PROBING = {  # SubZero's matrices have a full rank that is no density's; of LeZO's three layers two are in turn
    "spsa": {"samples": 2},
    "mix": {"alpha": 0.3},
    "subzero": {"rank": 4},
    "lezo": {"density": 0.67, "kind": "gaussian"},
    "fzoo": {"eps": 1e-3, "samples": 3},
}


@dataclass(frozen=True)
class Cell:
    """One value of every axis, by name."""

    full: str = "adamw"
    free: str = "signsgd"
    split: str = "columns"
    codec: str = "fp32"
    store: str = "dense"
    release: str = "accumulate"
    adapters: str = "full"
    source: str = "backprop"
    conservative: bool = False  # spsa only

    @property
    def lr(self) -> float:
        return self._lr_of(self.full)

    def treatment(self) -> Treatment:
        return Treatment(
            full=RULES[self.full](),
            free=RULES[self.free](),
            split=split_of(self.split, DENSITY, GAP),
            codec=CODECS[self.codec](**OPTIONS.get(self.codec, {})),
            store=STORES[self.store](),
            free_lr_scale=self._lr_of(self.free) / self.lr,
            source=self._source(),
        )

    def _source(self):
        options = {"conservative": True} if self.conservative else PROBING.get(self.source, {})
        return SOURCES[self.source](**options)

    @property
    def first_order(self) -> bool:
        """Is there a backward pass?"""
        return self.source in ("backprop", "mix")

    @property
    def descends(self) -> bool:
        """Is the first step against an estimate of the gradient itself, by exact weights?"""
        plain = self.full == "sgd" or self.split == "empty", self.free == "sgd" or self.split == "whole"
        return self.source != "backprop" and all(plain) and self.store == "dense"

    def _lr_of(self, rule):
        if self.source == "backprop":
            return (BARE if self.adapters == "full" else LR).get(rule, 1e-2)
        unit = PROBING["fzoo"]["eps"] if self.source == "fzoo" else 1.0  # FZOO's estimate is in units of 1 / eps
        return unit * STEEP[rule] if rule in STEEP else LR.get(rule, 1e-2)

    def policy(self) -> Policy:
        return Policy((Route(self.treatment(), role=TRAINED), Route(None)))


def _drawn(choices, *key):
    return choices[stream(*key) % len(choices)]


TURNS = tuple(  # as many of them as there are rules, one after the other, have all rules
    (free, RELEASES[(i + turn) % len(RELEASES)]) for turn in range(len(RELEASES)) for i, free in enumerate(FREE)
)
KEPT = tuple(product(CODECS, STORES, ADAPTERS))
BUILT = tuple(
    (c, s, a) for c, s, a in KEPT if s != "int8_trainable" or a == "full"
)  # others are refused by any source


def _squares(turn, shift):
    """KEPT in six parts, the first of them by turns: codec x store like the fields of a chessboard, with adapters."""
    places = product(range(len(CODECS)), range(len(STORES)), range(len(ADAPTERS)))
    parts = (((c + s + a + turn) % len(ADAPTERS), (c + s + shift) % 2) for c, s, a in places)
    return [kept for _, kept in sorted(zip(parts, KEPT, strict=True), key=lambda pair: pair[0])]


def _cells(most=None):
    return tuple(
        Cell(full, free, split, codec, store, release, adapters)
        for i, (full, split) in enumerate(product(RULES, SPLITS))
        for j, (codec, store, adapters) in enumerate(_squares(i, i + i // len(SPLITS))[:most])
        for free, release in [TURNS[(i + j) % len(TURNS)]]
    )


CELLS = _cells()
WALKED = _cells(len(CODECS) * len(STORES) // 2)  # a sixth
ZEROTH = tuple(
    Cell(full, free, split, codec, store, release, adapters, source)
    for source, full, split in product([name for name in SOURCES if name != "backprop"], RULES, SPLITS)
    for free, release in [_drawn(TURNS, "turns", source, full, split)]
    for codec, store, adapters in [_drawn(BUILT, "kept", source, full, split)]
)


@contextmanager
def trained(cell):
    """The model, its plan and its optimizer; HybridOptError where the cell is refused. Afterwards all is undone."""
    model, start = _built(cell.store, cell.adapters)
    if start is None:  # refused: nothing of the kind can be built
        hybridopt.wrap(model, cell.policy(), peft_config=lora(), quantization="int8-trainable")
        raise AssertionError(f"{cell} was not refused")
    policy = cell.policy()
    model = hybridopt.wrap(model, policy)
    try:
        plan = Plan.of(params(model), policy)
        yield model, plan, model.hybrid.optimizer(cell.lr, DECAY / cell.lr, release=cell.release)
    finally:
        model.hybrid.unwrap()
        _restore(model, start)


def refusal(cell):
    """Why this cell is refused; None where it is not."""
    try:
        with trained(cell):
            return None
    except HybridOptError as error:
        return str(error)


@cache
def refused(cell):
    """Why one of its parts' combinations is refused: of a rule with the split, or of all that is no rule.

    That no other combination is refused, whatever the source, is what walking the grid shows.
    """
    rules = Cell(full=cell.full, split=cell.split), Cell(free=cell.free, split=cell.split)
    both = Cell(full=cell.full, free=cell.free, split=cell.split)
    rest = replace(cell, full="adamw", free="signsgd", split="columns", source="backprop", conservative=False)
    return next(filter(None, map(_refusal, (*rules, both, rest))), None)


_refusal = cache(refusal)


@cache
def _built(store, adapters):
    if store == "int8_trainable" and adapters != "full":
        model = Reader()
        if adapters == "LoRA + nf4":
            quantize_(model, "nf4", LINEAR)
        return model, None
    model = build(store, adapters)
    return model, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _restore(model, start):
    for name, p in model.named_parameters():
        p.grad = None
        if name in start:
            p.copy_(start[name])
