"""MeZO and its relatives step as their papers' equations say."""

import copy

import pytest
import torch

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning, Policy, Route, Treatment
from hybridopt.parts.rules.sgd import SGD
from hybridopt.parts.sources.spsa import SPSA
from hybridopt.parts.splits.empty import Empty
from support.probing import data, direction, directions, loss_of, moved, net, slope, weights

EPS, LR = 1e-2, 1e-2


def trained(policy, steps=1, dtype=torch.float32, lr=LR, weight_decay=0.0, batches=None, **options):
    """A network after some steps of a policy, and its optimizer."""
    model = hybridopt.wrap(net(dtype), policy=policy, **options)
    optimizer = model.hybrid.optimizer(lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        optimizer.probe(batches(model) if batches else lambda: loss_of(model))
        optimizer.step()
    return model, optimizer


def close(model, expected, **tolerance):
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], **(tolerance or {"rtol": 1e-5, "atol": 1e-7}), msg=name)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_a_step_goes_against_the_projected_gradient(kind):
    model, expected = net(), net()
    for step in range(3):
        z = directions(expected, step=step, kind=kind)
        expected = moved(expected, z, -LR * slope(expected, z, EPS))
    model, optimizer = trained("mezo", 3, eps=EPS, kind=kind)
    close(model, dict(expected.named_parameters()))
    assert optimizer.projected_gradient is not None


def test_several_directions_are_averaged():
    start = net()
    zs = [directions(start, index=k) for k in range(3)]
    slopes = [slope(start, z, EPS) for z in zs]
    expected = {
        n: p - LR / 3 * sum(g * z[n] for g, z in zip(slopes, zs, strict=True)) for n, p in weights(start).items()
    }
    model, _ = trained("mezo", eps=EPS, samples=3)
    close(model, expected)


def test_weight_decay_is_of_the_old_weights_and_spares_norms_and_biases():
    start, z = net(), directions(net())
    g, old = slope(start, z, EPS), weights(start)
    decays = {n: 1 - LR * 0.5 * (p.ndim > 1) for n, p in old.items()}
    model, _ = trained("mezo", eps=EPS, weight_decay=0.5)
    close(model, {n: decays[n] * p - LR * g * z[n] for n, p in old.items()})


def test_micro_batches_may_come_in_one_probe_or_in_several():
    halves = [tuple(x[i::2] for x in data(rows=6)) for i in range(2)]
    together, _ = trained("mezo", eps=EPS, batches=lambda m: [lambda b=b: loss_of(m, b) for b in halves])
    model = hybridopt.wrap(net(), policy="mezo", eps=EPS)
    optimizer = model.hybrid.optimizer(lr=LR)
    for batch in halves:
        optimizer.probe(lambda b=batch: loss_of(model, b))
    optimizer.step()
    close(model, weights(together))
    whole, _ = trained("mezo", eps=EPS, batches=lambda m: lambda: loss_of(m, data(rows=6)))
    close(model, weights(whole), rtol=1e-4, atol=1e-6)


def test_clipping_limits_the_projected_gradient():
    start, z = net(), directions(net())
    limit = abs(slope(start, z, EPS)) / 3
    sign = 1 if slope(start, z, EPS) > 0 else -1
    model, _ = trained("mezo", eps=EPS, clip=limit)
    close(model, {n: p - LR * sign * limit * z[n] for n, p in weights(start).items()})


def test_a_pool_has_so_many_directions_and_no_more():
    source = SPSA(pool=3)
    from support.parts import draw

    seen = {source.noise(draw(step, gap=1), (4,), 0, {}) for step in range(60)}
    assert len(seen) == 3
    model, _ = trained("mezo", 4, eps=EPS, pool=1)
    z = directions(net())
    moves = [
        ((p - q) / z[n]).flatten() for (n, p), q in zip(weights(model).items(), weights(net()).values(), strict=True)
    ]
    move = torch.cat(moves)
    torch.testing.assert_close(move, move[:1].expand_as(move), rtol=1e-4, atol=1e-6)


def test_sign_sgd_takes_the_sign_of_every_element():
    start, z = net(), directions(net())
    sign = 1 if slope(start, z, EPS) > 0 else -1
    model, _ = trained("zo_signsgd", eps=EPS)
    close(model, {n: p - LR * sign * z[n] for n, p in weights(start).items()})
    zs = [directions(start, index=k) for k in range(2)]
    slopes = [slope(start, z, EPS) for z in zs]
    model, _ = trained("zo_signsgd", eps=EPS, samples=2)
    close(
        model,
        {n: p - LR * sum(g * z[n] for g, z in zip(slopes, zs, strict=True)).sign() for n, p in weights(start).items()},
    )


@pytest.mark.parametrize(
    ("policy", "theirs"),
    [
        ("zo_momentum", lambda params: torch.optim.SGD(params, lr=LR, momentum=0.9)),
        ("zo_adam", lambda params: torch.optim.AdamW(params, lr=LR, weight_decay=0.0)),
    ],
)
def test_momentum_and_adam_see_the_estimate_as_a_gradient(policy, theirs):
    expected = net()
    peer = theirs(expected.parameters())
    for step in range(4):
        z = directions(expected, step=step)
        g = slope(expected, z, EPS)
        for name, p in expected.named_parameters():
            p.grad = g * z[name]
        peer.step()
    model, _ = trained(policy, 4, eps=EPS)
    close(model, dict(expected.named_parameters()), rtol=1e-4, atol=2e-6)


def test_the_conservative_step_is_the_best_of_three():
    kept = []
    for lr in (1e-2, 30.0):  # downhill, and far beyond the minimum
        start, z = net(), directions(net())
        g = slope(start, z, EPS)
        losses = {f: loss_of(moved(start, z, -f * lr * g)).item() for f in (1, 0, -1)}
        best = min(losses, key=losses.get)
        kept.append(best)
        model, optimizer = trained("zo_conservative", eps=EPS, lr=lr)
        close(model, {n: p - best * lr * g * z[n] for n, p in weights(start).items()}, rtol=1e-4, atol=1e-5)
    assert kept == [1, 0]


def test_fzoo_divides_by_the_spread_of_the_losses():
    start, eps = net(), 1e-3
    zs = [directions(start, index=k) for k in range(4)]
    with torch.no_grad():
        base = loss_of(start).double()
        losses = torch.stack([loss_of(moved(start, z, eps)).double() for z in zs])
    weight = ((losses - base) / (eps * 4) / losses.std()).tolist()
    model, _ = trained("fzoo", eps=eps, samples=4)
    close(
        model,
        {n: p - LR * sum(w * z[n] for w, z in zip(weight, zs, strict=True)) for n, p in weights(start).items()},
        rtol=1e-4,
        atol=1e-5,
    )


def test_fzoo_without_any_spread_stands_still():
    model = hybridopt.wrap(net(), policy="fzoo")
    optimizer = model.hybrid.optimizer(lr=LR)
    before = weights(model)
    optimizer.probe(lambda: 0 * loss_of(model))
    optimizer.step()
    close(model, before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("policy", ["mezo", "zo_signsgd", "zo_adam", "subzero", "fzoo", "lezo"])
def test_nothing_changes_but_by_a_step_and_with_lr_0_not_even_then(policy, dtype):
    model = hybridopt.wrap(net(dtype), policy=policy)
    optimizer = model.hybrid.optimizer(lr=0.0)
    before = weights(model)
    for _ in range(3):
        optimizer.probe(lambda: loss_of(model))
        close(model, before, rtol=0, atol=0)
        optimizer.step()
        close(model, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "policy", ["mezo", "zo_signsgd", "zo_momentum", "zo_adam", "zo_conservative", "subzero", "lezo", "fzoo"]
)
def test_losses_fall(policy):
    rates = {"zo_signsgd": 3e-3, "zo_adam": 3e-3, "fzoo": 3e-5, "zo_momentum": 3e-3}
    model = hybridopt.wrap(net(), policy=policy, **({} if policy == "fzoo" else {"eps": 1e-3}))
    optimizer = model.hybrid.optimizer(lr=rates.get(policy, 1e-2))
    losses = [optimizer.step(lambda: loss_of(model)) for _ in range(120)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert all(p.grad is None for p in model.parameters())


def test_bfloat16_weights_are_rounded_at_random_so_that_small_steps_count():
    model = hybridopt.wrap(net(torch.bfloat16), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-5)
    before = weights(model)
    optimizer.probe(lambda: loss_of(model))
    optimizer.step()
    changed = sum((p != before[n]).sum().item() for n, p in model.named_parameters())
    assert 0 < changed < 20  # some, where to nearest none would


def test_zeroth_order_beside_first_order_in_one_model():
    use = Treatment(source=SPSA(EPS), free=SGD(), split=Empty())
    policy = Policy((Route(use, role="norm"), Route(Treatment())))
    model, start = hybridopt.wrap(net(), policy=policy), net()
    optimizer = model.hybrid.optimizer(lr=LR)
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["1.weight", "1.bias"]
    optimizer.probe(lambda: loss_of(model))
    loss_of(model).backward()
    optimizer.step()
    z = {n: direction(n, p) for n, p in start.named_parameters() if n.startswith("1.")}
    g = slope(start, z, EPS)
    peer = net()
    first = torch.optim.AdamW([p for n, p in peer.named_parameters() if n not in z], lr=LR, weight_decay=0.0)
    loss_of(peer).backward()
    first.step()
    expected = {n: p - LR * g * z[n] if n in z else p for n, p in peer.named_parameters()}
    close(model, expected)
    model.hybrid.unwrap()
    assert all(p.requires_grad for p in model.parameters())


def test_a_closure_serves_both_orders_and_the_optimizer_runs_backward():
    use = Treatment(source=SPSA(EPS), free=SGD(), split=Empty())
    policy = Policy((Route(use, role="norm"), Route(Treatment())))
    models = [hybridopt.wrap(net(), policy=policy) for _ in range(2)]
    optimizers = [m.hybrid.optimizer(lr=LR) for m in models]
    calls = []
    mean = optimizers[0].step(lambda: calls.append(torch.is_grad_enabled()) or loss_of(models[0]))
    assert calls == [False, False, True]
    assert mean == pytest.approx(loss_of(net()).item(), rel=1e-2)
    optimizers[1].probe(lambda: loss_of(models[1]))
    loss_of(models[1]).backward()
    optimizers[1].step()
    close(models[0], weights(models[1]), rtol=0, atol=0)


def test_the_bare_optimizer_needs_no_model():
    model, peer = net(), trained("mezo", 2, eps=EPS)[0]
    optimizer = HybridOptimizer(model.named_parameters(), lr=LR, policy="mezo", eps=EPS)
    for _ in range(2):
        optimizer.step(lambda: loss_of(model))
    close(model, weights(peer), rtol=0, atol=0)


def test_a_step_without_a_probe_says_how_to_probe_and_is_nothing_with_lr_0():
    model = hybridopt.wrap(net(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=LR)
    with pytest.raises(HybridOptError, match=r"optimizer\.probe\(loss_fn\).*optimizer\.step\(loss_fn\)"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = torch.tensor(0.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert optimizer.param_groups[0]["step"] == 0


def test_what_was_measured_serves_one_step():
    model = hybridopt.wrap(net(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=LR)
    optimizer.step(lambda: loss_of(model))
    with pytest.raises(HybridOptError, match="nothing was measured"):
        optimizer.step()


def test_first_order_policies_take_no_probes():
    model = hybridopt.wrap(net(), policy="adamw")
    with pytest.raises(HybridOptError, match="zeroth-order parts"):
        model.hybrid.optimizer(lr=LR).probe(lambda: loss_of(model))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_raises_or_skips_and_changes_nothing(bad):
    model = hybridopt.wrap(net(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=LR)
    before = weights(model)
    with pytest.raises(HybridOptError, match=r"theta \+ eps z is not finite at step 0.*nothing was changed"):
        optimizer.step(lambda: bad)
    optimizer = model.hybrid.optimizer(lr=LR, nonfinite="skip")
    with pytest.warns(HybridOptWarning, match="the step is skipped"):
        optimizer.step(lambda: bad)
    close(model, before, rtol=0, atol=0)
    assert optimizer.param_groups[0]["step"] == 1  # the next step tries another direction
    optimizer.step(lambda: loss_of(model))
    assert any(not p.equal(before[n]) for n, p in model.named_parameters())


def test_a_projected_gradient_beyond_float32_skips_the_step():
    model = hybridopt.wrap(net(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=LR)
    before = weights(model)
    optimizer.probe(lambda: 1e300 * (loss_of(model).item() - loss_of(net()).item()))
    with pytest.warns(HybridOptWarning, match="projected gradient is not finite"):
        optimizer.step()
    close(model, before, rtol=0, atol=0)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_resumed_and_copied_runs_go_on_to_the_bit(at, tmp_path):
    straight, _ = trained("zo_adam", 4, eps=EPS)
    model, optimizer = trained("zo_adam", at, eps=EPS)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    again = hybridopt.wrap(copy.deepcopy(model.hybrid.unwrap()), policy="zo_adam", eps=EPS)
    other = again.hybrid.optimizer(lr=LR)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert len(other.log) == at
    for _ in range(4 - at):
        other.step(lambda: loss_of(again))
    close(again, weights(straight), rtol=0, atol=0)


def test_a_copied_model_takes_its_optimizer_along():
    model, optimizer = trained("mezo", 2, eps=EPS)
    model2, optimizer2 = copy.deepcopy((model, optimizer))
    for m, o in ((model, optimizer), (model2, optimizer2)):
        o.step(lambda m=m: loss_of(m))
    close(model2, weights(model), rtol=0, atol=0)
    assert len(optimizer.log) == len(optimizer2.log) == 3


def test_the_order_of_parameters_does_not_matter():
    model = net()
    optimizer = HybridOptimizer(list(model.named_parameters())[::-1], lr=LR, policy="mezo", eps=EPS)
    for _ in range(2):
        optimizer.step(lambda: loss_of(model))
    close(model, weights(trained("mezo", 2, eps=EPS)[0]), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("policy", "options", "say"),
    [
        ("mezo", {"eps": 0}, "eps=0"),
        ("mezo", {"eps": -1}, "eps=-1"),
        ("mezo", {"eps": float("nan")}, "eps=nan"),
        ("mezo", {"samples": 0}, "samples=0"),
        ("mezo", {"kind": "uniform"}, "kind='uniform'"),
        ("mezo", {"clip": 0}, "clip=0"),
        ("mezo", {"pool": 0}, "pool=0"),
        ("fzoo", {"samples": 1}, "samples=1"),
        ("lezo", {"density": 0}, "density=0"),
        ("lezo", {"density": 2}, "density=2"),
        ("subzero", {"rank": 0}, "rank=0"),
        ("subzero", {"update_gap": 0}, "update_gap=0"),
        ("addax", {"alpha": 0}, "alpha=0"),
        ("addax", {"alpha": 1.5}, "alpha=1.5"),
        ("addax", {"alpha": 0.1, "zo_lr": 1e-3}, "zo_lr"),
        ("addax", {"zo_lr": 1e-3}, "fo_lr"),
        ("addax", {"zo_lr": -1, "fo_lr": 1}, "zo_lr=-1"),
        ("addax", {"zo_lr": 0, "fo_lr": 0}, "alpha=0"),
    ],
)
def test_bad_options_are_named(policy, options, say):
    model = net()
    with pytest.raises(HybridOptError, match=say):
        hybridopt.wrap(model, policy=policy, **options)
    assert not hasattr(model, "hybrid")


def test_parameters_cannot_disagree_about_probes():
    ways = (SPSA(samples=1), SPSA(samples=2))
    one, two = (Treatment(source=s, free=SGD(), split=Empty()) for s in ways)
    with pytest.raises(HybridOptError, match="one probe serves all"):
        hybridopt.wrap(net(), policy=Policy((Route(one, role="norm"), Route(two))))
    optimizer = HybridOptimizer(
        [("a", torch.nn.Parameter(torch.ones(3)))], policy=Policy((Route(one, name="a"), Route(two)))
    )
    with pytest.raises(HybridOptError, match="one probe serves all"):
        optimizer.add_param_group({"params": [("b", torch.nn.Parameter(torch.ones(3)))]})
    assert len(optimizer.param_groups) == 1


def test_conservative_steps_are_of_plain_sgd():
    use = Treatment(source=SPSA(conservative=True), split=Empty())
    with pytest.raises(HybridOptError, match="conservative=True tries plain steps"):
        hybridopt.wrap(net(), policy=Policy((Route(use),)))


def test_distributed_checkpoints_start_from_a_fresh_optimizer():
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    for policy in ("mezo", "zo_adam", "addax"):
        model = hybridopt.wrap(net(), policy=policy)
        optimizer = model.hybrid.optimizer(lr=LR)
        before = weights(model)
        saved = get_optimizer_state_dict(model, optimizer)
        set_optimizer_state_dict(model, optimizer, saved)
        close(model, before, rtol=0, atol=0)
        optimizer.probe(lambda m=model: loss_of(m))
        optimizer.step()
        assert any(not p.equal(before[n]) for n, p in model.named_parameters())
