"""Whose turn it is: everything once before anything twice, from (seed, name, shape, window) and nothing else."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridopt.core.contracts import Draw, Population
from hybridopt.core.registry import make
from hybridopt.parts.splits.block import Block
from hybridopt.parts.splits.randk import walk
from support.parts import SPLITS, draw

SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**40)


def chosen(split, name, shape, window, seed):
    """Positions of the lines or entries that are state-full in a window."""
    now = draw(window, name, seed, split.update_gap)
    made = split.at(now, shape)
    x = torch.arange(1.0, 1 + math.prod(shape)).view(shape)
    basis = {k: torch.zeros(s.shape, dtype=s.dtype) for k, s in made.slots(shape).items()}
    made.sample(x, basis, now)
    rest = made.rest(x, basis)
    return set(range(x.numel())) if rest is None else set(rest.flatten().eq(0).nonzero().flatten().tolist())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(["columns", "rows", "randk"]),
    st.tuples(st.integers(1, 6), SIZES) | st.tuples(SIZES, st.integers(1, 6)) | st.tuples(SIZES),
    st.floats(0.001, 0.999),
    SEEDS,
    st.integers(0, 3),
)
def test_lines_and_entries_all_have_their_turn(name, shape, density, seed, round_):
    split = SPLITS[name](density, 2)
    total = {"columns": shape[-1], "rows": shape[max(0, len(shape) - 2)], "randk": math.prod(shape)}[name]
    windows = math.ceil(total / max(1, round(density * total)))
    seen = [chosen(split, "w", shape, round_ * windows + w, seed) for w in range(windows)]
    assert set().union(*seen) == set(range(math.prod(shape)))
    for early in range(windows - 1):  # only the last window of a round may repeat, to be full
        assert not seen[early] & set().union(*seen[:early])
    assert len({len(s) for s in seen}) == 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 500), st.floats(0.001, 0.999), SEEDS)
def test_the_walk_is_a_permutation(total, density, seed):
    _, stride = walk(draw(0, "w", seed), total, max(1, round(density * total)))
    assert sorted(i * stride % total for i in range(total)) == list(range(total))


def test_rounds_differ_and_seeds_and_names_differ():
    split = SPLITS["columns"](0.25, 2)
    rounds = {tuple(frozenset(chosen(split, "w", (2, 16), 4 * r + w, 0)) for w in range(4)) for r in range(5)}
    assert len(rounds) == 5
    for kind in ("columns", "rows", "randk"):
        split = SPLITS[kind](0.25, 2)
        firsts = {frozenset(chosen(split, n, (16, 16), 0, seed)) for n in "abcde" for seed in range(5)}
        assert len(firsts) > 15


# ---- blocks

POPULATIONS = st.lists(st.integers(1, 50), min_size=1, max_size=12).map(
    lambda sizes: tuple((f"layers.{i}.w", size) for i, size in enumerate(sizes))
)


def turns(split, members, windows, seed=0):
    """The names that are state-full in every window."""
    population = Population(members)

    def whole(name, window):
        now = Draw(seed, name, window, window * split.update_gap, population)
        return split.at(now, (1,)).shape((1,)) is not None

    return [[n for n, _ in members if whole(n, w)] for w in range(windows)]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(POPULATIONS, st.floats(0.01, 0.99), st.sampled_from(["random", "ascending", "descending", "mirror"]), SEEDS)
def test_blocks_have_their_turns_within_the_budget(members, density, order, seed):
    found = turns(Block(density, 2, order), members, 4 * len(members), seed)
    budget, size = density * sum(dict(members).values()), dict(members)
    counts = dict.fromkeys(size, 0)
    for window in found:
        assert window, "a window without any block"
        assert len(window) == 1 or sum(size[n] for n in window) <= budget
        for name in window:
            counts[name] += 1
    assert min(counts.values()) >= 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(POPULATIONS, st.floats(0.01, 0.99), st.sampled_from(["random", "ascending", "descending", "mirror"]), SEEDS)
def test_no_block_has_its_second_turn_before_all_have_had_their_first(members, density, order, seed):
    waiting, everyone = set(), {n for n, _ in members}
    for window in turns(Block(density, 2, order), members, 3 * len(members), seed):
        left = [n for n in window if n in waiting]
        new = [n for n in window if n not in waiting]
        waiting -= set(left)
        if new:
            assert not waiting, f"{new} again, before {waiting}"
            waiting = everyone - set(new)


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ("ascending", ["a", "b", "c", "d", "e"]),
        ("descending", ["e", "d", "c", "b", "a"]),
        ("mirror", ["a", "e", "b", "d", "c"]),
    ],
)
def test_orders(order, wanted):
    members = tuple((n, 10) for n in "abcde")
    assert turns(Block(0.2, 1, order), members, 10) == [[n] for n in wanted] * 2
    pairs = turns(Block(0.4, 1, order), members, 5)
    assert [set(p) for p in pairs] == [set((wanted * 2)[2 * i : 2 * i + 2]) for i in range(5)]


def test_a_random_order_is_new_in_every_round():
    members = tuple((n, 1) for n in "abcdefgh")
    flat = [w[0] for w in turns(Block(1 / 8, 1), members, 32)]
    rounds = [tuple(flat[i : i + 8]) for i in range(0, 32, 8)]
    assert all(sorted(r) == list("abcdefgh") for r in rounds) and len(set(rounds)) == 4


@settings(max_examples=30, deadline=None, derandomize=True)
@given(POPULATIONS, st.floats(0.05, 0.9), SEEDS, st.randoms(use_true_random=False))
def test_a_random_order_does_not_depend_on_the_order_of_parameters(members, density, seed, random):
    shuffled = list(members)
    random.shuffle(shuffled)
    split = Block(density, 2)
    one, other = (turns(split, tuple(m), 10, seed) for m in (members, shuffled))
    assert [set(w) for w in one] == [set(w) for w in other]


def test_layers_are_units():
    members = tuple((f"model.layers.{i}.{n}", 5) for i in range(4) for n in ("q.weight", "k.weight", "n.0.weight"))
    found = turns(Block(unit="layer", blocks=1, update_gap=1, order="ascending"), members, 4)
    assert found == [[n for n, _ in members if n.startswith(f"model.layers.{i}.")] for i in range(4)]
    found = turns(Block(0.5, unit="layer", update_gap=1, order="ascending"), members, 2)
    assert found == [[n for n, _ in members[:6]], [n for n, _ in members[6:]]]


def test_visits_in_any_order_agree():
    members = tuple((f"layers.{i}.w", i + 1) for i in range(9))
    forward = turns(Block(0.3, 1), members, 20, seed=5)
    population = Population(members)
    for window in reversed(range(20)):
        whole = [n for n, _ in members if Block(0.3, 1).at(Draw(5, n, window, window, population), (1,)).shape((1,))]
        assert whole == forward[window]


# ---- schedules


def test_density_schedules_reach_blocks():
    steps = make("schedules", "steps", values=(1.0, 0.5, 0.0), boundaries=(2, 4))
    members = tuple((n, 10) for n in "abcd")
    found = turns(Block(steps, 1, "ascending"), members, 6)
    assert [len(w) for w in found] == [4, 4, 2, 2, 0, 0]


def test_schedules():
    linear = make("schedules", "linear", start=0.5, end=0.1, steps=4)
    assert [round(linear(s), 9) for s in (0, 1, 2, 4, 9)] == [0.5, 0.4, 0.3, 0.1, 0.1]
    steps = make("schedules", "steps", values=(0.5, 0.2), boundaries=(3,))
    assert [steps(s) for s in (0, 2, 3, 9)] == [0.5, 0.5, 0.2, 0.2]
    assert draw(3, gap=2).density(lambda step: step / 10) == 0.6
    with pytest.raises(ValueError, match="density at step 6.*2"):
        draw(3, gap=2).density(lambda step: 2.0)
