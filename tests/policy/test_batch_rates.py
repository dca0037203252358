"""Learning rates for another batch, on quadratics whose best rates are known by measuring."""

import math

import pytest
import torch
from typer.testing import CliRunner

from hybridopt import HybridOptError
from hybridopt.cli.main import app
from hybridopt.parts import SGD, SignSGD
from hybridopt.policy.batch_rates import follows_size, gradient_noise, lr_for_batch
from hybridopt.policy.routes import read_policy

SIZE, SAMPLES = 200, 3000


def best(rule, signal, noise, shared, batch):
    """The rate with the lowest mean loss after one step on a quadratic of Hessian I + shared 11', and mean |g|^2.

    Gradients are `signal` in every entry, with a deviation of `noise` in each example.
    """
    random = torch.Generator().manual_seed(int(batch))
    g = signal + noise / batch**0.5 * torch.randn(SAMPLES, SIZE, generator=random)
    u = torch.stack([rule.update(one, {}, None, {}) for one in g.split(SAMPLES)]).view(SAMPLES, SIZE)
    along = (u * signal).sum(-1).mean()
    curved = u.square().sum(-1).mean() + shared * u.sum(-1).square().mean()
    return (along / curved).item(), g.square().sum(-1).mean().item()


def test_the_best_rate_of_sgd_levels_off_above_the_noise():
    found = {b: best(SGD(), 1.0, 5.0, 0.0, b) for b in (2, 8, 32, 128, 512)}
    noise = gradient_noise({b: found[b][1] for b in (2, 8, 32)})
    assert noise == pytest.approx(25.0, rel=0.05)
    for b, (rate, _) in found.items():
        assert lr_for_batch(found[8][0], 8, b, "lomo", noise) == pytest.approx(rate, rel=0.05)
    assert found[2][0] < 0.2 * found[512][0]


def test_the_best_rate_of_signs_has_a_peak_at_the_noise():
    signal, shared = 1 / 50, 0.3
    noise = math.pi / 2 / signal**2 * (1 + shared) / (SIZE * shared)  # where both curvatures are as large
    assert 80 < noise < 90
    rates = {b: best(SignSGD(), signal, 1.0, shared, b)[0] for b in (1, 8, 32, 85, 256, 700)}
    for b, rate in rates.items():
        assert lr_for_batch(rates[32], 32, b, "signsgd", noise) == pytest.approx(rate, rel=0.1)
    assert max(rates, key=rates.get) == 85 and rates[700] < 0.8 * rates[85]


@pytest.mark.parametrize(("policy", "wanted"), [("adamw", 2e-3), ("lion", 2e-3), ("lomo", 4e-3), ("sinkgd", 2e-3)])
def test_far_below_the_noise_as_the_root_or_in_proportion(policy, wanted):
    assert lr_for_batch(1e-3, 8, 32, policy) == pytest.approx(wanted)
    assert lr_for_batch(1e-3, 8, 32, policy, noise=1e9) == pytest.approx(wanted, rel=1e-6)
    assert lr_for_batch(lr_for_batch(1e-3, 8, 500, policy, 90), 500, 8, policy, 90) == pytest.approx(1e-3)
    assert lr_for_batch(1e-3, 64, 64, policy, 7) == 1e-3


@pytest.mark.parametrize(
    ("policy", "options", "size"),
    [("frugal", {}, False), ("muon", {}, False), ("adalomo", {}, False), ("signsgd", {}, False), ("ip_sgd", {}, True)]
    + [("sgd", {}, True), ("addax", {}, True), ("frugal", {"full": "momentum", "free": "sgd"}, True)],
)
def test_which_law_a_policy_follows(policy, options, size):
    assert follows_size(read_policy(policy, options)) == size


def test_policies_without_a_backward_pass_are_refused():
    with pytest.raises(HybridOptError, match="takes no gradients"):
        lr_for_batch(1e-3, 8, 32, "mezo")


def test_the_noise_is_read_from_norms():
    assert gradient_noise({4: 1 + 8 / 4, 16: 1 + 8 / 16}) == pytest.approx(8)
    assert gradient_noise({b: 3 * (1 + 50 / b) for b in (1, 2, 4, 8)}) == pytest.approx(50)
    for bad in ({}, {4: 1.0}, {4: 1.0, 16: 1.0}, {4: 1.0, 16: 2.0}, {4: 8.0, 16: 0.5}):
        with pytest.raises(HybridOptError, match="norms"):
            gradient_noise(bad)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": -1},
        {"lr": float("nan")},
        {"batch": 0},
        {"new_batch": -4},
        {"batch": "8"},
        {"noise": 0},
        {"noise": 1e400},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(HybridOptError, match=next(iter(change))):
        lr_for_batch(**{"lr": 1e-3, "batch": 8, "new_batch": 32} | change)


def test_the_command_says_it():
    def said(*arguments):
        return CliRunner().invoke(app, ["rate", *arguments]).output

    assert said("1e-3", "--batch", "8", "--to", "32").startswith("0.002, for 32 in place of 8: the rate of frugal")
    assert "0.004" in said("1e-3", "--batch", "8", "--to", "32", "--policy", "lomo")
    assert "peak at the noise" in said("1e-3", "--batch", "8", "--to", "32", "--noise", "16")


@pytest.mark.parametrize("option", ["--batch", "--to", "--noise"])
def test_the_command_names_its_own_options(option):
    given = {"--batch": "8", "--to": "16", "--noise": "4"} | {option: "0"}
    refused = CliRunner().invoke(app, ["rate", "1e-3", *(word for pair in given.items() for word in pair)])
    assert refused.exit_code and f"rate: {option}=0.0 is not allowed" in str(refused.exception or refused.output)
