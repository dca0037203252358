"""Windows longer than a run are no silent matter: what of a policy does not come to pass is said, with the cure."""

import pytest

from hybridopt import HybridOptError
from hybridopt.model.roles import params
from hybridopt.parts import Linear
from hybridopt.policy.late_windows import late_windows, slow_densities
from hybridopt.policy.plan import Plan
from hybridopt.policy.routes import read_policy
from support.models import tiny_llama


@pytest.fixture(scope="module")
def found():
    return params(tiny_llama())


def late(found, steps, policy, **options):
    return late_windows(Plan.of(found, read_policy(policy, options)), steps)


@pytest.mark.parametrize(
    ("policy", "options", "gap"),
    [("frugal", {}, 200), ("galore", {}, 200), ("adafrugal", {}, 100), ("subzero", {}, 1000)]
    + [("frugal", {"split": "svd", "update_gap": 50}, 50), ("frugal", {"split": "randk"}, 200)],
)
def test_a_choice_that_is_made_once_is_told_with_the_cure(found, policy, options, gap):
    (told,) = late(found, gap, policy, **options)
    assert (told.gap, told.better) == (gap, gap // 6) and f"update_gap={gap}: in {gap:,} steps" in str(told)
    assert late(found, gap + 1, policy, **options) == []
    assert late(found, gap, policy, **options | {"update_gap": told.better}) == []


@pytest.mark.parametrize(("policy", "options"), [("galore", {}), ("frugal", {"split": "random"})])
def test_windows_that_begin_at_different_steps_are_no_single_choice(found, policy, options):
    plan = Plan.of(found, read_policy(policy, options))
    split = [e for e in plan.entries if e.tag == "split"]
    again = [e for e in split if e.treatment.split.ahead(plan.seed, e.param.name) > 0]
    (told,) = late_windows(plan, 200)
    assert again and f"chosen once, and once more in {len(again)} of {len(split)} tensors" in told.why
    (told,) = late(found, 200, policy, **options | {"spread": False} if policy == "galore" else {"split": "columns"})
    assert "chosen once, and never changes" in told.why


@pytest.mark.parametrize(
    ("policy", "options", "rest"), [("badam", {}, "stand still"), ("frugal", {"split": "block"}, "alone")]
)
def test_blocks_without_a_turn_are_counted(found, policy, options, rest):
    plan = Plan.of(found, read_policy(policy, options))
    split = [e for e in plan.entries if e.treatment is not None and e.treatment.split.by_turns]
    gap = split[0].treatment.split.update_gap
    never = [e for e in split if all(plan.job(e, window).part.empty for window in range(1))]
    (told,) = late_windows(plan, gap)
    assert never and f"{len(never)} of {len(split)} tensors" in told.why and rest in told.why
    assert late(found, gap, policy, **options, update_gap=told.better) == []
    assert late(found, gap, policy, **options, update_gap=2 * told.better) != []


def test_a_density_that_hardly_falls_is_told(found):
    def told(steps, policy, **options):
        return slow_densities(Plan.of(found, read_policy(policy, options)), steps)

    (text,) = told(60, "adafrugal")
    assert "density=Linear(start=0.25, end=0.05, steps=10000): in 60 steps it goes from 0.25 to 0.249 only" in text
    assert told(5000, "adafrugal") == told(60, "adafrugal", density=Linear(0.25, 0.05, 60)) == told(60, "frugal") == []
    assert told(60, "frugal", density=lambda step: 0.25) == []


@pytest.mark.parametrize("policy", ["adamw", "mezo", "lezo", "signsgd", "adalomo"])
def test_policies_without_windows_have_nothing_to_say(found, policy):
    assert late(found, 2, policy) == [] == late(found, 1, "frugal")


def test_steps_are_a_whole_number(found):
    with pytest.raises(HybridOptError, match="steps=0 is not allowed"):
        late(found, 0, "frugal")
