"""What the report of a placed model says, held against the streamer's counters."""

import re

import pytest

import hybridopt
from hybridopt.model.placement.placed import placed
from support.placed import WAYS, adapted, model_at, train


@pytest.mark.parametrize(("way", "scheme"), zip(WAYS, (None, "nf4"), strict=True))
def test_it_says_where_weights_rest_and_what_a_step_moves(way, scheme):
    model = adapted(model_at(way, scheme))
    report = model.hybrid.report()
    there = placed(model)
    aside = sum(x.nbytes for x in there.aside)
    assert report.totals.rest_bytes == sum(unit.nbytes for unit in there.units) + aside
    data = report.as_dict()
    kinds = {row["role"]: row["rest_bytes"] for row in data["rows"]}
    assert data["rests"] == there.placement.base and kinds["adapter"] == 0 and kinds["embedding"] == aside
    assert report.rests in str(report) and re.search(r"rests on +bytes there", str(report))
    train(model, 2)
    before = there.traffic.read + there.traffic.moved
    train(model, 1)
    moved = there.traffic.read + there.traffic.moved - before
    told = sum(data["moved_per_step"].values())
    assert moved == told or (way == "mapped" and 0 <= moved - told < 4 * 4096 * 8)  # whole pages are read
    assert "a step moves" in str(report).splitlines()[-1]


def test_what_cannot_be_trained_moves_nothing_that_is_known():
    model = hybridopt.wrap(model_at("staged"))
    assert model.hybrid.report().moved is None and "a step moves" not in str(model.hybrid.report())


def test_models_that_are_not_placed_have_none_of_it():
    report = adapted(model_at("resident")).hybrid.report()
    assert report.rests is None and "rest" not in str(report.as_dict()) and "rests on" not in str(report)
