"""Rules with rounds as text: which can be said, for which sizes, and what of them is left out."""

from dataclasses import dataclass

import pytest

from hybridopt.core.contracts import Rule
from hybridopt.execution.printing.tracing.rounds import rounds_of
from hybridopt.parts.rules.adafactor import Adafactor
from hybridopt.parts.rules.adam_mini import AdamMini
from hybridopt.parts.rules.came import CAME
from hybridopt.parts.rules.column_norm import ColumnNorm
from support.parts import RULES

ANY = None, None
PRINTED = {"adafactor", "adalomo", "adam_mini", "came", "column_norm", "normalized_sgd", "sinkhorn"}
ELEMENTS = {"adam_mini": ("exp_avg",), "came": ("exp_avg",)}


def test_all_rules_with_rounds_are_said_but_those_with_products():
    looking = {name for name, rule in RULES.items() if rule().looks}
    said = {name for name in looking if rounds_of(RULES[name](), ELEMENTS.get(name, ()), ANY) is not None}
    assert said == PRINTED and looking - said == {"apollo"}


def test_numbers_follow_from_the_size():
    found = rounds_of(CAME(), ("exp_avg",), ANY)
    texts = [line.text for settle in found.settles for line in settle.lines]
    assert "div_(l_row, width_)" in texts and "div_(v0, (rows_ * width_))" in texts
    assert found.settled == {"by_row": "row", "by_col": "col", "scale": "one"} | {
        "confidence_row": "row",
        "confidence_col": "col",
    }
    one = rounds_of(CAME(), ("exp_avg",), (1, None))
    assert one.settled["by_row"] == "one" and "confidence_row" not in one.settled


def test_blocks_of_heads_are_said_for_their_own_number_of_rows():
    rule = AdamMini(blocks=((4, 16), (2, 8)))
    assert rounds_of(rule, ("exp_avg",), ANY) is None
    assert rounds_of(rule, ("exp_avg",), (80, None)) is not None
    assert rounds_of(AdamMini(blocks=((4, 16),), groups=2), ("exp_avg",), (128, None)) is None


def test_what_nobody_reads_is_not_summed():
    rows, columns = (rounds_of(ColumnNorm(axis=axis), (), ANY) for axis in ("rows", "columns"))
    assert (rows.looks[0].sums, columns.looks[0].rows) == ({}, {})
    assert rows.by_rows and not columns.by_rows
    assert rounds_of(AdamMini(), ("exp_avg",), ANY).by_rows


@dataclass(frozen=True)
class Odd(Rule):
    """A rule whose numbers follow from the size in a way that no formula says, or that branches by the size."""

    kind: str
    looks = 1

    def look(self, i, grad, state, param, now):
        scale = {"number": grad.shape[-1] ** 0.3, "branch": 1.0, "sum": 1.0, "value": 1.0}[self.kind]
        seen = grad.abs() if self.kind == "branch" and grad.shape[-1] < 10 else grad * scale
        total = seen.sum((-2, -1), keepdim=True)
        return {}, {"total": total.abs() if self.kind == "sum" else total}

    def settle(self, i, rows, sums, state, now):
        return {}, {"total": sums["total"] * (sums["total"].item() if self.kind == "value" else 1.0)}

    def update(self, grad, state, param, now):
        return grad * now["total"]


@pytest.mark.parametrize("kind", ["number", "branch", "sum", "value"])
def test_what_cannot_be_said_is_none(kind):
    assert rounds_of(Odd(kind), (), ANY) is None


@dataclass(frozen=True)
class Scaled(Adafactor):
    """A rule that asks whether a matrix is tall."""

    by: str = "size"

    def update(self, grad, state, param, now):
        rows, columns = grad.shape[-2:]
        factor = {"size": max(1, rows / columns), "branch": 2 if rows > columns else 1, "least": min(rows, columns)}
        return super().update(grad, state, param, now) * factor[self.by]


@pytest.mark.parametrize("by", ["size", "branch", "least"])
@pytest.mark.parametrize("fixed", [ANY, (64, None), (None, 3)])
def test_what_differs_for_tall_and_wide_matrices_is_not_said(by, fixed):
    assert rounds_of(Scaled(by=by), (), fixed) is None
    assert rounds_of(Adafactor(), (), fixed) is not None
