"""Addax mixes both gradients as its equation says, and what does not fit together is refused."""

import pytest
import torch

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, Policy, Route, Treatment
from hybridopt.parts.sources.mix import Mix
from hybridopt.parts.sources.spsa import SPSA
from hybridopt.parts.splits.whole import Whole
from support.probing import data, directions, loss_of, net, slope, weights

EPS, LR, ALPHA = 1e-2, 1e-2, 0.05
LONG, SHORT = data(3, 9), data(4, 4)


def addax(model, release="accumulate", steps=1, lr=LR, **options):
    """Train; returns the optimizer."""
    model = hybridopt.wrap(model, policy="addax", **({"alpha": ALPHA, "eps": EPS} | options))
    optimizer = model.hybrid.optimizer(lr=lr, release=release)
    for _ in range(steps):
        optimizer.probe(lambda: loss_of(model, LONG))
        loss_of(model, SHORT).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def gradients(model, batch):
    return dict(
        zip(
            dict(model.named_parameters()), torch.autograd.grad(loss_of(model, batch), model.parameters()), strict=True
        )
    )


def close(model, expected, **tolerance):
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], **(tolerance or {"rtol": 1e-5, "atol": 1e-7}), msg=name)


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_the_equation(release):
    start, z = net(), directions(net())
    g0, g1 = slope(start, z, EPS, lambda m: loss_of(m, LONG)), gradients(start, SHORT)
    model = net()
    addax(model, release)
    close(model, {n: p - LR * (ALPHA * g0 * z[n] + (1 - ALPHA) * g1[n]) for n, p in weights(start).items()})


def test_in_place_and_afterwards_are_the_same_to_the_bit():
    models = [net(), net()]
    for model, release in zip(models, ("accumulate", "fused"), strict=True):
        addax(model, release, steps=4)
    close(models[0], weights(models[1]), rtol=0, atol=0)


def test_fused_release_keeps_no_gradient():
    model = hybridopt.wrap(net(), policy="addax")
    optimizer = model.hybrid.optimizer(lr=LR, release="fused")
    optimizer.probe(lambda: loss_of(model, LONG))
    loss_of(model, SHORT).backward()
    assert all(p.grad is None for p in model.parameters())


def test_both_rates_say_alpha_and_lr():
    models = [net(), net()]
    addax(models[0], alpha=None, zo_lr=LR * ALPHA, fo_lr=LR * (1 - ALPHA), lr=None)
    addax(models[1])
    close(models[0], weights(models[1]), rtol=1e-6, atol=1e-8)
    model = hybridopt.wrap(net(), policy="addax", zo_lr=1e-3, fo_lr=1e-2)
    assert model.hybrid.optimizer().param_groups[0]["lr"] == pytest.approx(1.1e-2)
    with pytest.raises(HybridOptError, match="zo_lr and fo_lr of the policy say"):
        model.hybrid.optimizer(lr=1e-3)


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_parameters_that_the_short_batch_does_not_reach_still_take_the_probe(release):
    start, z = net(), directions(net())
    model = hybridopt.wrap(net(), policy="addax", alpha=ALPHA, eps=EPS)
    optimizer = model.hybrid.optimizer(lr=LR, release=release)
    optimizer.probe(lambda: loss_of(model, LONG))
    g0 = slope(start, z, EPS, lambda m: loss_of(m, LONG))
    model[:3](SHORT[0]).square().mean().backward()  # the last layer takes no part
    optimizer.step()
    expected = weights(start)["3.weight"] - LR * ALPHA * g0 * z["3.weight"]
    torch.testing.assert_close(model[3].weight.detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_without_a_backward_pass_it_is_the_probes_alone(release):
    start, z = net(), directions(net())
    g0 = slope(start, z, EPS, lambda m: loss_of(m, LONG))
    model = hybridopt.wrap(net(), policy="addax", alpha=ALPHA, eps=EPS)
    optimizer = model.hybrid.optimizer(lr=LR, release=release)
    optimizer.probe(lambda: loss_of(model, LONG))
    optimizer.step()
    close(model, {n: p - LR * ALPHA * g0 * z[n] for n, p in weights(start).items()})


def test_a_step_without_a_probe_is_refused_unless_it_is_of_no_length():
    model = hybridopt.wrap(net(), policy="addax")
    optimizer = model.hybrid.optimizer(lr=LR)
    before = weights(model)
    neither = r"nothing was measured.*no gradient.*optimizer\.probe\(loss_fn\).*loss\.backward\(\)"
    with pytest.raises(HybridOptError, match=neither):
        optimizer.step()
    model.hybrid.optimizer(lr=0.0).step()  # as torch.distributed.checkpoint does
    assert optimizer.param_groups[0]["step"] == 0
    loss_of(model, SHORT).backward()
    with pytest.raises(HybridOptError, match=r"optimizer\.probe\(loss_fn\)"):
        optimizer.step()
    close(model, before, rtol=0, atol=0)


def test_fused_release_wants_the_probe_before_the_backward_pass():
    model = hybridopt.wrap(net(), policy="addax")
    optimizer = model.hybrid.optimizer(lr=LR, release="fused")
    before = weights(model)
    with pytest.raises(HybridOptError, match="probe.*before.*backward"):
        loss_of(model, SHORT).backward()
    close(model, before, rtol=0, atol=0)
    optimizer.zero_grad()
    optimizer.probe(lambda: loss_of(model, LONG))
    loss_of(model, SHORT).backward()
    with pytest.raises(HybridOptError, match="call step"):
        optimizer.probe(lambda: loss_of(model, LONG))
    optimizer.step()


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_a_skipped_probe_skips_the_whole_step(release):
    model = hybridopt.wrap(net(), policy="addax")
    optimizer = model.hybrid.optimizer(lr=LR, release=release, nonfinite="skip")
    before = weights(model)
    with pytest.warns(hybridopt.HybridOptWarning, match="the step is skipped"):
        optimizer.probe(lambda: float("nan"))
    loss_of(model, SHORT).backward()
    optimizer.step()
    optimizer.zero_grad()
    close(model, before, rtol=0, atol=0)
    optimizer.probe(lambda: loss_of(model, LONG))
    loss_of(model, SHORT).backward()
    optimizer.step()
    assert all(not p.equal(before[n]) for n, p in model.named_parameters())


def test_micro_batches_held_and_in_one_go_agree():
    halves = [tuple(x[i::2] for x in SHORT) for i in range(2)]
    models = [net(), net()]
    optimizers = [hybridopt.wrap(m, policy="addax", eps=EPS).hybrid.optimizer(lr=LR, release="fused") for m in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.probe(lambda m=model: loss_of(m, LONG))
    loss_of(models[0], SHORT).backward()
    with optimizers[1].hold():
        (loss_of(models[1], halves[0]) / 2).backward()
    (loss_of(models[1], halves[1]) / 2).backward()
    for optimizer in optimizers:
        optimizer.step()
    close(models[0], weights(models[1]), rtol=1e-4, atol=1e-6)


def test_one_batch_for_both_halves_by_a_closure():
    models = [net(), net()]
    wrapped = [hybridopt.wrap(m, policy="addax", alpha=ALPHA, eps=EPS) for m in models]
    first, second = (m.hybrid.optimizer(lr=LR) for m in wrapped)
    first.step(lambda: loss_of(models[0], LONG))
    second.probe(lambda: loss_of(models[1], LONG))
    loss_of(models[1], LONG).backward()
    second.step()
    close(models[0], weights(models[1]), rtol=0, atol=0)


def test_adam_may_see_the_mixture():
    source = Mix(ALPHA, SPSA(EPS))
    model, peer = net(), net()
    optimizer = HybridOptimizer(
        model.named_parameters(), lr=LR, policy=Policy((Route(Treatment(source=source, split=Whole())),)), module=model
    )
    other = torch.optim.AdamW(peer.parameters(), lr=LR, weight_decay=0.0)
    for step in range(3):
        z = directions(peer, step=step)
        g0, g1 = slope(peer, z, EPS, lambda m: loss_of(m, LONG)), gradients(peer, SHORT)
        for name, p in peer.named_parameters():
            p.grad = ALPHA * g0 * z[name] + (1 - ALPHA) * g1[name]
        other.step()
        optimizer.probe(lambda: loss_of(model, LONG))
        loss_of(model, SHORT).backward()
        optimizer.step()
        optimizer.zero_grad()
    close(model, dict(peer.named_parameters()), rtol=1e-4, atol=2e-6)


def test_losses_fall_on_both_batches(monkeypatch):
    teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(5)) / 2
    for name, batch in (("LONG", LONG), ("SHORT", SHORT)):
        monkeypatch.setitem(globals(), name, (batch[0], batch[0] @ teacher))
    model = net()
    before = [loss_of(model, b).item() for b in (LONG, SHORT)]
    addax(model, "fused", steps=150, lr=5e-2, alpha=0.01)
    assert all(loss_of(model, b).item() < 0.8 * old for b, old in zip((LONG, SHORT), before, strict=True))


def test_a_mixture_needs_a_source_that_probes():
    from hybridopt.parts.sources.backprop import Backprop

    for bad in (Backprop(), Mix(), SPSA(conservative=True)):
        with pytest.raises(HybridOptError, match="Mix"):
            Mix(zeroth=bad)
