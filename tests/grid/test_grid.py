"""What the grid of combinations covers, what it refuses and how, and the page with the table of it."""

from dataclasses import astuple
from itertools import combinations, product

import pytest
import torch

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, Policy, Route, Treatment
from hybridopt.parts.rules.muon import Muon
from hybridopt.parts.splits.block import Block
from hybridopt.parts.splits.randk import RandK
from support.grid.cells import (
    ADAPTERS,
    CELLS,
    CODECS,
    FREE,
    RELEASES,
    RULES,
    SPLITS,
    STORES,
    WALKED,
    Cell,
    refusal,
    trained,
)
from support.grid.table import BLOCK

AXES = {"full": RULES, "free": FREE, "split": SPLITS, "codec": CODECS, "store": STORES}
AXES |= {"release": RELEASES, "adapters": ADAPTERS}
THREES = [
    ("full", "split", "free"),
    ("full", "split", "release"),
    ("codec", "store", "adapters"),
    ("full", "codec", "free"),
    ("full", "codec", "release"),
]


@pytest.mark.parametrize("axes", [*combinations(AXES, 2), *THREES])
def test_all_values_meet(axes):
    met = {tuple(getattr(c, axis) for axis in axes) for c in WALKED}
    assert met == set(product(*(AXES[axis] for axis in axes)))


@pytest.mark.parametrize("two", [*combinations(("codec", "store", "adapters"), 2)])
@pytest.mark.parametrize("one", ["full", "split"])
def test_two_values_of_what_is_kept_meet_under_every_rule_and_under_every_split(one, two):
    axes = (one, *two)
    met = {tuple(getattr(c, axis) for axis in axes) for c in WALKED}
    assert met == set(product(*(AXES[axis] for axis in axes)))


def test_no_cell_is_walked_twice():
    assert set(WALKED) < set(CELLS) and len(set(WALKED)) == len(WALKED) == len(CELLS) // 6
    assert len(set(map(astuple, CELLS))) == len(CELLS) == len(RULES) * len(SPLITS) * len(CODECS) * len(STORES) * 3


def test_the_table_of_the_page_is_this():
    page = BLOCK.page.read_text()
    assert page == BLOCK.into(page, []), "run: PYTHONPATH=tests python -m support.grid.table --write"


REFUSED = {
    Cell(
        full="muon", split="randk"
    ): r"'layers.0.gate.weight' \(role 'linear', shape \(128, 64\)\): full='muon' needs a matrix",
    Cell(full="apollo", split="randk", adapters="LoRA"): r"gate.lora_A.*full='apollo'.*split='columns'.*'randk'",
    Cell(full="no_update", split="whole"): r"'layers.0.gate.weight'.*stand still.*freeze it",
    Cell(full="no_update", free="no_update"): r"'layers.0.gate.weight'.*stand still.*freeze it",
}


@pytest.mark.parametrize("cell", REFUSED, ids=str)
def test_the_reason_names_parameter_and_cure(cell):
    with pytest.raises(HybridOptError, match=REFUSED[cell]), trained(cell):
        pass


def test_what_only_later_windows_would_show_is_refused_at_once():
    weights = [("w", torch.nn.Parameter(torch.ones(8, 8)))]
    late = Treatment(full=Muon(), split=RandK(density=lambda step: 0.0 if step < 1000 else 0.5))
    with pytest.raises(HybridOptError, match="'w'.*full='muon' needs a matrix"):
        HybridOptimizer(weights, policy=Policy((Route(late),)))
    HybridOptimizer(weights, policy=Policy((Route(Treatment(full=Muon(), split=RandK(density=1))),)))
    HybridOptimizer(weights, policy=Policy((Route(Treatment(full=Muon(), split=Block())),)))


def test_a_refusal_leaves_the_model_alone():
    with trained(Cell()) as (model, _, _):
        model.hybrid.unwrap()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        with pytest.raises(HybridOptError):
            hybridopt.wrap(model, Cell(full="muon", split="randk").policy())
        assert "hybrid" not in vars(model)
        assert all(p.requires_grad and p.equal(before[n]) for n, p in model.named_parameters())
        hybridopt.wrap(model)


def test_refusals_are_seen():
    assert refusal(Cell()) is None and "needs a matrix" in refusal(Cell(full="came", split="randk"))
