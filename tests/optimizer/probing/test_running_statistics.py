"""Buffers of modules in training mode follow the weights, once a probe, as the forward passes of a loop move them."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import hybridopt
from hybridopt import HybridOptError, HybridOptWarning
from support.probing import directions, moved

LR, EPS = 5e-3, 1e-3
POLICIES = ("mezo", "lezo", "subzero", "fzoo", "zo_signsgd", "zo_momentum", "zo_adam", "zo_conservative")


class Counting(nn.Module):
    """Counts its passes in place, keeps a mean that is assigned anew, and a list that grows."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x):
        if self.training:
            self.passes += 1
            self.mean = self.mean * 0.9 + x.detach().mean(0) * 0.1
            self.seen = torch.cat([self.seen, x.detach().mean().view(1)])
        return x


def net(norm=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4) if norm is None else norm, nn.Tanh(), nn.Linear(4, 2))


def rows(seed=1):
    return torch.randn(32, 6, generator=torch.Generator().manual_seed(seed)) * 3 + 2


def loss_of(model, seed=1):
    x = rows(seed)
    return F.cross_entropy(model(x), (x[:, 0] > 2).long())


def buffers(model):
    return {name: x.clone() for name, x in model.named_buffers()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(model, steps, optimizer=None, policy="mezo", **options):
    if optimizer is None:
        model = hybridopt.wrap(model, policy=policy, **options)
        optimizer = model.hybrid.optimizer(lr=LR)
    for _ in range(steps):
        optimizer.step(lambda: loss_of(model))
    return optimizer


def instance_norm():
    return nn.Sequential(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten())


NORMS = {
    "batch norm": lambda: nn.BatchNorm1d(4),
    "cumulative": lambda: nn.BatchNorm1d(4, momentum=None),
    "without affine": lambda: nn.BatchNorm1d(4, affine=False),
    "instance norm": instance_norm,
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "counter": Counting,
}


@pytest.mark.parametrize("norm", NORMS)
def test_they_are_those_of_a_pass_at_the_first_shift(norm):
    model = net(NORMS[norm]())
    identities = {name: x for name, x in model.named_buffers() if name != "1.seen"}
    optimizer = hybridopt.wrap(model, policy="mezo", eps=EPS).hybrid.optimizer(lr=LR)
    for step in range(3):
        reference = copy.deepcopy(moved(model, directions(model, step=step), EPS))
        with torch.no_grad():
            loss_of(reference)
        optimizer.step(lambda: loss_of(model))
        wanted = buffers(reference)
        assert buffers(model).keys() == wanted.keys()
        assert all(torch.allclose(x, wanted[name], atol=1e-6) for name, x in buffers(model).items())
    assert all(x is identities[name] for name, x in model.named_buffers() if name in identities)
    assert not same(buffers(model), buffers(net(NORMS[norm]())))


@pytest.mark.parametrize("policy", POLICIES)
def test_once_a_step_whatever_the_number_of_evaluations(policy):
    model = net()
    calls, real = [], model.forward
    model.forward = lambda x: calls.append(1) or real(x)
    run(model, 5, policy=policy)
    assert model[1].num_batches_tracked == 5 and len(calls) >= 10
    assert not same({"mean": model[1].running_mean}, {"mean": torch.zeros(4)})


def test_the_model_that_is_evaluated_is_the_one_that_was_trained():
    model = net()
    run(model, 100)
    with torch.no_grad():
        train = loss_of(model).item()
        model.eval()
        assert loss_of(model).item() == pytest.approx(train, abs=0.02)


def test_micro_batches_count_one_by_one_as_in_accumulation():
    several, listed, reference = net(), net(), net()
    for model, split in ((several, True), (listed, False)):
        optimizer = hybridopt.wrap(model, policy="mezo", eps=1e-7).hybrid.optimizer(lr=LR)
        closures = [lambda model=model, seed=seed: loss_of(model, seed) for seed in (1, 2, 3)]
        for given in closures if split else [closures]:
            optimizer.probe(given)
        optimizer.step()
    with torch.no_grad():
        for seed in (1, 2, 3):
            loss_of(reference, seed)
    for model in (several, listed):
        assert model[1].num_batches_tracked == 3
        assert torch.allclose(model[1].running_mean, reference[1].running_mean, atol=1e-5)


def test_modules_in_evaluation_mode_and_models_without_statistics_stay():
    model = net()
    model[1].eval()
    before = buffers(model)
    run(model, 3)
    assert same(buffers(model), before)


@pytest.mark.parametrize("closure", [True, False])
def test_where_a_backward_pass_is_made_its_forward_pass_moves_them(closure):
    """Addax: the same batch would count twice."""
    model = net()
    optimizer = hybridopt.wrap(model, policy="addax").hybrid.optimizer(release="fused")
    for _ in range(4):
        if closure:
            optimizer.step(lambda: loss_of(model))
        else:
            optimizer.probe(lambda: loss_of(model, 2))
            loss_of(model).backward()
            optimizer.step()
    assert model[1].num_batches_tracked == 4


def test_what_fails_leaves_them():
    model, bad = net(), [False]
    optimizer = hybridopt.wrap(model, policy="mezo").hybrid.optimizer(lr=LR)
    skipping = hybridopt.wrap(other := net(), policy="mezo").hybrid.optimizer(lr=LR, nonfinite="skip")

    def closure(model):
        return loss_of(model) * (math.nan if bad[0] else 1.0)

    for one, of in ((model, optimizer), (other, skipping)):
        bad[0] = False
        of.step(lambda one=one: closure(one))
        before, bad[0] = buffers(one), True
        if of is optimizer:
            with pytest.raises(HybridOptError, match="not finite"):
                of.step(lambda one=one: closure(one))
        else:
            with pytest.warns(HybridOptWarning, match="not finite"):
                of.step(lambda one=one: closure(one))
        assert same(buffers(one), before)

    def failing():
        loss_of(model)
        raise KeyError("stop")

    before = buffers(model)
    with pytest.raises(KeyError):
        optimizer.step(failing)
    assert same(buffers(model), before)


@pytest.mark.parametrize("norm", NORMS)
def test_a_resumed_run_goes_on_with_the_same_bits(norm):
    whole, first, second = (net(NORMS[norm]()) for _ in range(3))
    run(whole, 6)
    optimizer = run(first, 3)
    if norm == "counter":  # its list has grown, which load_state_dict refuses
        second[1].seen = torch.zeros(3)
    second.load_state_dict(first.state_dict())
    resumed = hybridopt.wrap(second, policy="mezo").hybrid.optimizer(lr=LR)
    resumed.load_state_dict(optimizer.state_dict())
    run(second, 3, resumed)
    assert same(second.state_dict(), whole.state_dict())


def test_a_saved_run_comes_back_with_them(tmp_path):
    model = net()
    optimizer = run(model, 4)
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(net(), tmp_path)
    assert (tmp_path / "hybridopt_replay.safetensors").exists() and optimizer.log.broken is None
    assert same(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("policy", ["mezo", "zo_conservative"])
def test_the_optimizer_holds_no_module_between_two_probes(policy):
    optimizer = run(net(), 1, policy=policy)
    assert optimizer._probing._probes._evaluator.left == []
