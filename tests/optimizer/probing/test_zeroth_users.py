"""What users of zeroth-order optimizers do without a thought: it works, or says why not, and nothing moves unasked."""

import copy
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning, Policy, Route, Treatment
from hybridopt.parts.rules.sgd import SGD
from hybridopt.parts.sources.spsa import SPSA
from hybridopt.parts.splits.columns import Columns
from hybridopt.parts.splits.empty import Empty
from support.probing import data, loss_of, net, weights

BARE = ("mezo", "zo_signsgd", "zo_momentum", "zo_adam", "zo_conservative", "subzero", "lezo", "fzoo")


def changed(model, before):
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def wrapped(policy="mezo", model=None, **options):
    model = hybridopt.wrap(net() if model is None else model, policy=policy)
    return model, model.hybrid.optimizer(lr=1e-2, **options)


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("policy", BARE)
def test_the_bare_optimizer_leaves_frozen_parameters_alone(policy, module):
    model = net()
    model[0].requires_grad_(False)
    optimizer = HybridOptimizer(model.named_parameters(), lr=1e-2, policy=policy, module=model if module else None)
    model[1].weight.requires_grad_(False)
    for _ in range(3):
        before = weights(model)
        optimizer.step(lambda: loss_of(model))
        assert changed(model, before) <= {"1.bias", "3.weight"}
    assert changed(model, weights(net())) == {"1.bias", "3.weight"}
    model[0].bias.requires_grad_(True)
    optimizer.step(lambda: loss_of(model))
    assert torch.equal(model[0].weight, net()[0].weight)


def test_what_wrap_has_switched_off_is_trained_by_copies_of_the_optimizer_too():
    model, optimizer = wrapped()
    assert not any(p.requires_grad for p in model.parameters())
    other, copied = copy.deepcopy((model, optimizer))
    copied.step(lambda: loss_of(other))
    assert changed(other, weights(model)) == set(weights(model))


def test_without_anything_to_shift_there_is_an_error():
    model = net().requires_grad_(False)
    optimizer = HybridOptimizer(model.named_parameters(), lr=1e-2, policy="mezo")
    with pytest.raises(HybridOptError, match=r"nothing to train by probes: '0.weight' .* requires_grad=False"):
        optimizer.step(lambda: loss_of(model))
    assert optimizer.param_groups[0]["step"] == 0


@pytest.mark.parametrize("bare", [False, True])
def test_a_loss_that_was_computed_before_is_refused(bare):
    model, optimizer = wrapped()
    if bare:
        model = net()
        optimizer = HybridOptimizer(model.named_parameters(), lr=1e-2, policy="mezo")
    loss = loss_of(model)
    for _ in range(2):
        with pytest.raises(HybridOptError, match="no parameter of this optimizer was used"):
            optimizer.step(lambda: loss)
    optimizer.step(lambda: loss_of(model))
    assert optimizer.param_groups[0]["step"] == 1
    assert optimizer.projected_gradient


def test_weights_that_were_replaced_are_noticed():
    model, optimizer = wrapped()
    optimizer.step(lambda: loss_of(model))
    model.load_state_dict({n: x.clone() for n, x in model.state_dict().items()}, assign=True)
    before = weights(model)
    optimizer.step(lambda: loss_of(model))
    assert changed(model, before) == set(before)


def test_a_loss_too_flat_to_differ_is_no_error():
    model, optimizer = wrapped()
    before = weights(model)
    optimizer.step(lambda: 0 * loss_of(model))
    assert (optimizer.projected_gradient, changed(model, before)) == (0, set())


class Fickle(nn.Module):
    """Uses the weight of its layer by itself, or by the layer."""

    def __init__(self, by):
        super().__init__()
        self.layer, self.by, self.itself = nn.Linear(6, 4), by, False

    def forward(self, x):
        itself = self.itself if self.by == "flag" else not self.training
        return nn.functional.linear(x, self.layer.weight, self.layer.bias) if itself else self.layer(x)


@pytest.mark.parametrize("by", ["flag", "mode"])
def test_another_way_through_the_model_is_noticed_under_the_same_closure(by):
    torch.manual_seed(0)
    model, optimizer = wrapped(model=nn.Sequential(Fickle(by), nn.Linear(4, 4)))

    def loss():
        return loss_of(model)

    optimizer.step(loss)
    model[0].itself = True
    model[0].eval()
    other = copy.deepcopy(model)
    optimizer.probe(loss)
    fresh = other.hybrid.optimizer(lr=1e-2)
    fresh.load_state_dict(optimizer.state_dict())
    fresh.probe(lambda: loss_of(other))
    assert optimizer.slopes == fresh.slopes


def test_layers_left_out_at_times_are_not_copied_for_good():
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
    model, optimizer = wrapped(model=nn.ModuleDict({"layers": layers}))
    use = [0, 1, 2]

    def loss():
        x = data()[0]
        for i in use:
            x = layers[i](x)
        return x.square().mean()

    for use[:] in ([0, 1, 2], [0, 1], [0, 2], [0, 1, 2]):
        optimizer.step(loss)
        assert optimizer.projected_gradient
    assert not optimizer._probing._probes._evaluator._perturbation.loose


def test_a_limit_on_gradients_that_nothing_takes_is_refused():
    with pytest.raises(HybridOptError, match=r"clip=0.1 .* takes none; .*SPSA\(clip=...\)"):
        wrapped(clip=0.1)
    wrapped(clip=float("inf"))
    wrapped("addax", clip=0.1)


def test_measuring_is_nothing_without_a_backward_pass():
    model, optimizer = wrapped(release="fused")
    assert optimizer.measure(loss_of(model)) is None


def test_loading_forgets_what_was_measured_for_another_step():
    model, optimizer = wrapped()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.step(lambda: loss_of(model))
    optimizer.probe(lambda: loss_of(model))
    optimizer.load_state_dict(saved)
    assert optimizer.slopes is None
    with pytest.raises(HybridOptError, match="nothing was measured"):
        optimizer.step()


@pytest.mark.parametrize("at", range(5))
def test_a_conservative_probe_that_fails_can_be_repeated(at):
    model, optimizer = wrapped("zo_conservative")
    other, expected = wrapped("zo_conservative")
    calls = []

    def loss():
        calls.append(0)
        if len(calls) == at + 1:
            raise MemoryError
        return loss_of(model)

    with pytest.raises(MemoryError):
        optimizer.step(loss)
    assert optimizer.slopes is None
    optimizer.step(loss)
    expected.step(lambda: loss_of(other))
    assert not changed(model, weights(other))


def mixed():
    body = Treatment(source=SPSA(), free=SGD(), split=Empty())
    return Policy(
        (
            Route(body, name="0.*"),
            Route(Treatment(split=Columns(density=0.5, update_gap=2)), name="3.*"),
            Route(Treatment()),
        )
    )


@pytest.mark.parametrize("policy", ["subzero", mixed()])
def test_distributed_checkpoints_hold_the_state_of_a_run(policy, tmp_path):
    def run(model, optimizer, steps):
        for _ in range(steps):
            optimizer.step(lambda: loss_of(model))
            optimizer.zero_grad()

    model, optimizer = wrapped(policy)
    run(model, optimizer, 3)
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path)
    other, resumed = wrapped(policy)
    other.load_state_dict(model.state_dict())
    target = get_optimizer_state_dict(other, resumed)
    assert not changed(other, weights(model))
    dcp.load({"optimizer": target}, checkpoint_id=tmp_path)
    set_optimizer_state_dict(other, resumed, target)
    run(model, optimizer, 3)
    run(other, resumed, 3)
    assert not changed(other, weights(model))


@pytest.mark.parametrize("policy", ["zo_adam", mixed()])
def test_a_step_with_learning_rate_0_and_no_probe_changes_nothing_that_follows(policy):
    (model, optimizer), (other, expected) = wrapped(policy), wrapped(policy)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    for one, trained in ((optimizer, model), (expected, other)):
        for _ in range(3):
            one.step(lambda m=trained: loss_of(m))
            one.zero_grad()
    assert not changed(other, weights(model))


@pytest.mark.parametrize("policy", ["zo_momentum", "zo_adam"])
def test_moments_that_a_distributed_checkpoint_left_out_are_missed(policy):
    model, optimizer = wrapped(policy)
    optimizer.step(lambda: loss_of(model))
    with pytest.warns(HybridOptWarning, match="moments start anew.* requires_grad=False"):
        set_optimizer_state_dict(model, optimizer, get_optimizer_state_dict(model, optimizer))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(copy.deepcopy(wrapped(policy)[1].state_dict()))
        optimizer.step(lambda: loss_of(model))
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


@pytest.mark.parametrize("option", ["", "flatten_optimizer_state_dict", "cpu_offload"])
def test_moments_of_frozen_parameters_come_back_or_are_missed(option, tmp_path):
    told = StateDictOptions(**{option: True}) if option else None
    model, optimizer = wrapped("zo_momentum")
    for _ in range(2):
        optimizer.step(lambda: loss_of(model))
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer, options=told)}, checkpoint_id=tmp_path)
    other, resumed = wrapped("zo_momentum")
    other.load_state_dict(model.state_dict())
    target = get_optimizer_state_dict(other, resumed, options=told)
    dcp.load({"optimizer": target}, checkpoint_id=tmp_path)
    with pytest.warns(HybridOptWarning, match="start anew") if option else warnings.catch_warnings():
        warnings.simplefilter("always" if option else "error")
        set_optimizer_state_dict(other, resumed, target, options=told)
    for one, trained in ((optimizer, model), (resumed, other)):
        one.step(lambda m=trained: loss_of(m))
    assert bool(changed(other, weights(model))) == bool(option)
