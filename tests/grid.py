"""Every combination of parts: how it is asked for, and whether it is refused.

All of full rule x split x codec x store x adapters. The free rule and the release take turns, so that each pair of
them meets each full rule under each split, and each codec with each store and adapters.
"""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
from grid_task import Reader, build, lora
from parts import CODECS, RULES, SPLITS, STORES, split_of

import hybridopt
from hybridopt import HybridOptError, Policy, Route, Treatment
from hybridopt.integrations.bitsandbytes import quantize_
from hybridopt.optimizer import RELEASES

DENSITY, GAP, DECAY = 0.34, 2, 0.01  # decay: of the weights, a step
ADAPTERS = ("full", "LoRA", "LoRA + nf4")
FREE = tuple(name for name, rule in RULES.items() if not rule().slots((2, 2)))
OPTIONS = {"int8": {"block": 16, "exact_below": 0}}  # so that the smallest state is kept in 8 bits, too
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
TRAINED = "linear|adapter"


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
        )

    def _lr_of(self, rule):
        return (BARE if self.adapters == "full" else LR).get(rule, 1e-2)

    def policy(self) -> Policy:
        return Policy((Route(self.treatment(), role=TRAINED), Route(None)))


TURNS = tuple(product(FREE, RELEASES))
CELLS = tuple(
    Cell(full, free, split, codec, store, release, adapters)
    for i, (full, split) in enumerate(product(RULES, SPLITS))
    for j, (codec, store, adapters) in enumerate(product(CODECS, STORES, ADAPTERS))
    for free, release in [TURNS[(i + j) % len(TURNS)]]
)


@contextmanager
def trained(cell):
    """The model, its policy and its optimizer; HybridOptError where the cell is refused. Afterwards all is undone."""
    model, start = _built(cell.store, cell.adapters)
    if start is None:  # refused: nothing of the kind can be built
        hybridopt.wrap(model, cell.policy(), peft_config=lora(), quantization="int8-trainable")
        raise AssertionError(f"{cell} was not refused")
    policy = cell.policy()
    model = hybridopt.wrap(model, policy)
    try:
        yield model, policy, model.hybrid.optimizer(cell.lr, DECAY / cell.lr, release=cell.release)
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

    That no other combination is refused is what walking the grid shows.
    """
    rules = Cell(full=cell.full, split=cell.split), Cell(free=cell.free, split=cell.split)
    both = Cell(full=cell.full, free=cell.free, split=cell.split)
    rest = replace(cell, full="adamw", free="signsgd", split="columns")
    return next(filter(None, map(_refusal, (*rules, both, rest))), None)


_refusal = cache(refusal)


@cache
def _built(store, adapters):
    if store == "int8_trainable" and adapters != "full":
        model = Reader()
        if adapters == "LoRA + nf4":
            quantize_(model, "nf4", ("gate", "up", "down"))
        return model, None
    model = build(store, adapters)
    return model, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _restore(model, start):
    for name, p in model.named_parameters():
        p.grad = None
        if name in start:
            p.copy_(start[name])
