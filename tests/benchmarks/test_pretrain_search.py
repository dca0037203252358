"""How the pre-training benchmark chooses rates and factors: short runs, full ones at the best, then seeds."""

import math
from dataclasses import replace

import pytest

from benchmarks.pretrain.methods import KNOWN
from benchmarks.pretrain.rows import STUDIES, Row, rows
from benchmarks.pretrain.search import Cell, Plan, at_edge, best, edge, full, short, wanted

PLAN = Plan((3e-4, 1e-3, 3e-3, 1e-2), (4.0, 1.0, 10.0), 10, 80)
UNCONFIRMED = replace(PLAN, brackets=0)


def bowl(rate, factor):
    """Loss with its least at a rate and a factor."""

    def loss(cell):
        away = math.log(cell.lr / rate) ** 2 + 0.1 * math.log(cell.factor / factor) ** 2
        return 4 + away + cell.seed / 100

    return loss


def shallow(rate, drift=1.0, depth=0.08):
    """The same with small differences at factor 4; in full runs the best rate is `drift` times as high."""

    def loss(cell):
        centre = rate * (drift if cell.steps == PLAN.full_steps else 1)
        return 4 + depth * math.log(cell.lr / centre) ** 2 + 0.1 * math.log(cell.factor / 4) ** 2

    return loss


def search(loss, plan=PLAN):
    """All runs in the order in which they are wanted."""
    found, order = {}, []
    while cells := wanted(found, plan):
        assert not set(cells) & set(found)
        order += cells
        found |= {cell: loss(cell) for cell in cells}
    return found, order


def test_short_runs_find_the_place_full_ones_confirm_it_and_seeds_follow():
    found, order = search(bowl(1e-3, 10))
    assert [cell.lr for cell in order[:4]] == list(PLAN.rates) and {cell.factor for cell in order[:4]} == {4.0}
    assert len(short(found, PLAN)) == 8 and best(short(found, PLAN)) == (1e-3, 10.0)
    assert order[8:] == [Cell(1e-3, 10.0, seed, 80) for seed in (0, 1, 2)]  # the rates beside it are far behind
    assert best(full(found, PLAN)) == (1e-3, 10.0) and not edge(found, PLAN)


def test_seeds_follow_at_a_rate_that_is_better_in_full_than_in_its_short_run():
    found, order = search(shallow(1e-3, drift=10))
    assert best(full(found, PLAN)) == (1e-2, 4.0) and not edge(found, PLAN)
    assert [cell.lr for cell in order if cell.steps == 80] == [1e-3, 3e-3, 1e-2, 3e-2, 1e-2, 1e-2]
    assert {cell.lr for cell in search(shallow(1e-3, drift=10), UNCONFIRMED)[1] if cell.steps == 80} == {1e-3}


def test_a_lower_rate_that_lost_clearly_in_its_short_run_gets_no_full_one():
    assert min(lr for lr, _ in full(search(shallow(1e-3, 0.3))[0], PLAN)) == 1e-3
    assert min(lr for lr, _ in full(search(shallow(1e-3, 0.3, depth=0.03))[0], PLAN)) < 1e-3


def test_a_higher_rate_that_was_far_behind_gets_no_full_one():
    found, _ = search(lambda cell: 4 + (cell.lr > 2e-3) + abs(math.log(cell.lr / 1e-3)) / 100)
    assert max(lr for lr, _ in full(found, PLAN)) == 1e-3


def test_factors_are_tried_at_the_two_best_rates():
    found, _ = search(bowl(2e-3, 1))
    assert {lr for lr, factor in short(found, PLAN) if factor == 10} == {1e-3, 3e-3}


@pytest.mark.parametrize(("rate", "expected"), [(3e-5, 3e-5), (1e-1, 1e-1)])
def test_rates_go_on_beyond_the_edge_while_the_best_is_the_outermost(rate, expected):
    found, _ = search(bowl(rate, 4))
    assert best(full(found, PLAN))[0] == expected and not at_edge(short(found, PLAN))


def test_the_search_ends_though_the_best_is_never_inside():
    found, _ = search(lambda cell: 4 - math.log(cell.lr))
    assert len({lr for lr, _ in short(found, PLAN)}) == len(PLAN.rates) + PLAN.beyond
    assert edge(found, PLAN) and len(full(found, PLAN)) == 1 + PLAN.brackets


def test_runs_that_diverge_are_never_the_best_and_all_of_them_end_a_search():
    found, _ = search(lambda cell: math.inf if cell.lr > 5e-4 else 4 - cell.lr)
    assert best(full(found, PLAN))[0] == 3e-4
    found, order = search(lambda cell: math.inf)
    assert len(order) == 4 and best(short(found, PLAN)) is None


def test_a_single_full_run_that_diverged_asks_for_no_seeds():
    _, order = search(lambda cell: math.inf if cell.steps == 80 else bowl(1e-3, 4)(cell))
    assert {cell.seed for cell in order} == {0}


def test_a_study_takes_over_the_main_tables_choice():
    row = Row("2m", "frugal", KNOWN["frugal"], STUDIES["2m"].budget)
    main = Row("main", "frugal", KNOWN["frugal"], STUDIES["main"].budget)
    assert row.plan({}) is None
    plan = main.plan({})
    searched = {Cell(lr, 4.0, 0, plan.short_steps): 4.0 for lr in plan.rates}
    assert row.plan({"main/frugal": searched}) is None
    found = {"main/frugal": searched | {Cell(3e-3, 10.0, 0, plan.full_steps): 3.0}}
    taken = row.plan(found)
    assert taken.rates == (1e-3, 3e-3, 1e-2) and taken.factors == (10.0,)
    short = {
        Cell(lr, 10.0, 0, taken.short_steps): loss for lr, loss in [(1e-3, 4.4), (3e-3, 4.6), (1e-2, 5.8), (3e-4, 5.1)]
    }
    ended = short | {Cell(1e-3, 10.0, 0, taken.full_steps): 3.9}
    assert wanted(ended, taken) == [Cell(3e-3, 10.0, 0, taken.full_steps)]  # short runs favour low rates
    assert (
        STUDIES["8m"].after == "2m" and Row("8m", "frugal", KNOWN["frugal"], STUDIES["8m"].budget).plan(found) is None
    )


def test_methods_close_to_a_bound_have_more_seeds():
    made = rows(KNOWN, ["main", "4k"], {})
    assert made["main/frugal"].seeds == (0, 1, 2, 3, 4) and made["main/galore"].seeds == (0, 1, 2)
    assert made["4k/frugal"].seeds == (0, 1, 2)
    assert rows(KNOWN, ["main"], {}, seeds=(0,))["main/frugal"].seeds == (0,)
