"""The noise scale is found by the way, from the sums of a step's micro-batches, and becomes advice on the rate."""

import pytest
import torch

from hybridopt import HybridOptError
from hybridopt.policy.batch_rates import lr_for_batch, told_of_noise
from hybridopt.policy.routes import read_policy
from hybridopt.training.watching.noise import FEWEST, NoiseWatch

SIZE, BATCH, PASSES = 400, 2, 5


class Accumulating:
    """A quadratic whose gradient is 1 in every entry, and 5 the deviation of one example's: a noise scale of 25."""

    def __init__(self, deviation=5.0):
        self.random = torch.Generator().manual_seed(0)
        self.deviation, self.sum = deviation, torch.zeros(SIZE)

    def add(self):
        noise = torch.randn(BATCH, SIZE, generator=self.random).mean(0)
        self.sum += (1 + self.deviation * noise) / PASSES

    def norm(self):
        return float(self.sum.norm())


def watched(steps, model, passes=PASSES):
    watch = NoiseWatch(model.norm)
    watch.begin(BATCH, passes, steps)
    for step in range(steps):
        model.sum.zero_()
        for number in range(passes):
            model.add()
            if number < passes - 1:
                watch.passed(step)
        watch.stepped()
    return watch


def test_the_noise_of_a_quadratic_is_found():
    watch = watched(50, Accumulating())
    assert watch.steps == 50 and watch.found() == pytest.approx(25.0, rel=0.1)


def test_long_runs_are_looked_at_now_and_then_and_short_ones_say_nothing():
    assert watched(500, Accumulating()).steps == 50
    assert watched(FEWEST - 1, Accumulating()).found() is None
    assert watched(50, Accumulating(), passes=2).steps == 0


def test_gradients_without_noise_or_beyond_all_numbers_have_none():
    assert watched(50, Accumulating(0.0)).found() is None
    assert watched(50, Accumulating(float("inf"))).steps == 0


@pytest.mark.parametrize(("batch", "words"), [(10, "save steps"), (100, "save little")])
def test_what_is_told_is_what_the_formula_says(batch, words):
    policy = read_policy("lion", {})
    text = told_of_noise(1e-3, batch, 25.0, policy)
    assert "about 25 examples" in text and words in text
    for other in (2 * batch, batch / 2):
        assert f"{lr_for_batch(1e-3, batch, other, policy, 25.0):.2g} with" in text
    with pytest.raises(HybridOptError, match="takes no gradients"):
        told_of_noise(1e-3, batch, 25.0, read_policy("mezo", {}))
