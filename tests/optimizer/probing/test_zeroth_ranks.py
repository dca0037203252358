"""Zeroth-order training on replicas, plain or in DDP: two processes, gloo, that exchange losses only."""

import time

import pytest
import torch
from torch import distributed, nn

import hybridopt
from hybridopt import HybridOptError, HybridOptWarning
from support.probing import data, loss_of, net, weights
from support.ranks import Ranks

pytestmark = pytest.mark.slow

RANKS, STEPS, POLICIES = 2, 3, ("mezo", "fzoo", "zo_conservative")
WHOLE = data(rows=8)


@pytest.fixture(scope="module")
def two():
    made = Ranks(RANKS, patience=20)
    yield made
    made.close()


def part():
    return tuple(x[distributed.get_rank() :: RANKS] for x in WHOLE)


def train(policy, batch=None):
    model = hybridopt.wrap(net(), policy=policy)
    optimizer = model.hybrid.optimizer(lr=1e-2)
    batch = part() if batch is None else batch
    for _ in range(STEPS):
        optimizer.step(lambda: loss_of(model, batch))
    return weights(model)


@pytest.mark.parametrize("policy", POLICIES)
def test_replicas_stay_the_same_and_train_as_one_process_on_everything(policy, two):
    one, other = two.run(train, policy)
    alone, start = train(policy, WHOLE), weights(net())
    for name, p in one.items():
        assert p.equal(other[name]), name
        assert not p.equal(start[name])
        if policy != "fzoo":  # the spread of mean losses is that of the whole batch, to rounding
            torch.testing.assert_close(p, alone[name], rtol=1e-3, atol=1e-5)


def contained(policy, training, wrapped_first, ddp=True):
    """Train in DDP, whose buffers are those of the first rank in every forward pass; or as it would be without."""
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    inner = hybridopt.wrap(inner, policy=policy) if wrapped_first else inner
    model = DistributedDataParallel(inner) if ddp else inner
    inner = inner if wrapped_first else hybridopt.wrap(inner, policy=policy)
    optimizer, batch = inner.hybrid.optimizer(lr=1e-2), part()
    model.train(training)
    for _ in range(STEPS):
        optimizer.step(lambda: nn.functional.mse_loss(model(batch[0]), batch[1]))
        optimizer.zero_grad()
    return weights(inner), inner[1].running_mean


@pytest.mark.parametrize("policy", ["mezo", "subzero", "zo_adam", "addax"])
def test_ddp_with_running_statistics(policy, two):
    (one, mean), (other, _) = two.run(contained, policy, True, policy != "mezo")
    assert all(p.equal(other[name]) for name, p in one.items())
    assert mean.abs().max() > 0
    still = two.run(contained, policy, False, True)
    assert all(p.equal(still[1][0][name]) for name, p in still[0][0].items())
    assert still[0][1].abs().max() == 0
    if policy != "addax":  # whose gradients DDP averages
        plain = two.run(contained, policy, False, True, False)
        assert all(p.equal(still[0][0][name]) for name, p in plain[0][0].items())


def refused(change):
    """Return the error of a step that one rank takes otherwise, the seconds until then, and whether weights stayed."""
    rank = distributed.get_rank()
    told = {
        "policy": "mezo",
        "seed": 0,
        "nonfinite": "raise",
        "samples": 1,
        "lr": 1e-2,
        "times": 1,
        "jump": 0,
        "loss": None,
    }
    told |= {key: values[rank] for key, values in change.items()}
    model = hybridopt.wrap(net(), policy=told["policy"], seed=told["seed"], samples=told["samples"])
    optimizer, begun = model.hybrid.optimizer(lr=told["lr"], nonfinite=told["nonfinite"]), time.monotonic()
    before, loss = weights(model), told["loss"]

    def closure():
        if loss == "raise":
            raise ValueError("my own error")
        return float("nan") if loss == "nan" else loss_of(model, part())

    try:
        for _ in range(told["times"]):
            optimizer.step(lambda: loss_of(model, part()))
        before = weights(model)
        for group in optimizer.param_groups:
            group["step"] += told["jump"]
        optimizer.step(closure)
    except (HybridOptError, ValueError) as error:
        same = all(x.equal(before[n]) for n, x in weights(model).items())
        return f"{type(error).__name__}: {error}", time.monotonic() - begun, same
    return "", 0, False


DIFFERENT = {
    "seed": ({"seed": (1, 2)}, "seed of parameter '0.weight' is 1 on rank 0 and 2 on rank 1"),
    "directions": ({"samples": (1, 3)}, "treatment of parameter '0.weight' is .*samples.* on rank 0 and .*on rank 1"),
    "policy": ({"policy": ("mezo", "zo_signsgd")}, "treatment of parameter '0.weight' is .*signsgd.* on rank 1"),
    "rate": ({"lr": (0.1, 0.2)}, "lr of parameter '0.weight' is 0.1 on rank 0 and 0.2 on rank 1"),
    "nonfinite": ({"nonfinite": ("raise", "skip")}, "nonfinite is 'raise' on rank 0 and 'skip' on rank 1"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_ranks_that_disagree_are_told_before_the_first_loss(name, two):
    change, expected = DIFFERENT[name]
    (first, _, same), (second, _, also) = two.run(refused, change | {"times": (0, 0)})
    assert first == second and same and also
    with pytest.raises(HybridOptError, match=f"ranks do not train the same: {expected}.*nothing was changed"):
        raise HybridOptError(first)


def test_a_loss_that_is_no_number_is_told_with_its_rank(two):
    for text, _, same in two.run(refused, {"loss": (None, "nan")}):
        assert "eps z is not finite at step 1 (direction 1 of 1) on rank 1 of 2; nothing was changed" in text and same


def skipped():
    model = hybridopt.wrap(net(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-2, nonfinite="skip")
    before, rank = weights(model), distributed.get_rank()
    with pytest.warns(HybridOptWarning, match="on rank 0 of 2; the step is skipped"):
        optimizer.step(lambda: loss_of(model, part()) * (1 if rank else float("inf")))
    assert all(x.equal(before[n]) for n, x in weights(model).items())
    optimizer.step(lambda: loss_of(model, part()))
    return weights(model)


def test_all_ranks_leave_out_a_step_of_which_one_has_no_loss(two):
    one, other = two.run(skipped)
    assert all(x.equal(other[n]) for n, x in one.items())


def test_a_rank_whose_closure_raises_tells_the_others_at_once(two):
    (first, seconds, same), (second, _, also) = two.run(refused, {"loss": (None, "raise")})
    assert second == "ValueError: my own error" and also
    assert "rank 1 has failed while it worked out its losses of step 1" in first and same and seconds < 15
    one, other = two.run(train, "mezo")  # and they go on
    assert all(x.equal(other[n]) for n, x in one.items())


def test_ranks_in_different_steps_are_told(two):
    for text, _, same in two.run(refused, {"jump": (0, 2)}):
        assert "rank 0 sends losses of step 1, and rank 1 of step 3; nothing was changed" in text and same
