"""APOLLO and APOLLO-Mini against their restatement; the projections; slices, stacks, odd gradients."""

import numpy as np
import pytest
import torch

from hybridopt import HybridOptError, Plan, wrap
from hybridopt.core.contracts import stream
from hybridopt.core.numerics import splitmix
from hybridopt.core.numerics.normal import normal
from hybridopt.execution import slices
from hybridopt.model.roles import params
from hybridopt.parts.rules.apollo import Apollo
from hybridopt.policy.methods.apollo import ApolloPolicy
from hybridopt.policy.methods.apollo_mini import ApolloMini
from support import models
from support.reference import apollo as restated
from support.reference.rules import Adam
from support.rule_driver import directions, extremes, state_for, step
from support.training import advance, assert_same, give, optimize, state_bytes, tensors, twin, values

KEY = stream("a parameter")
MINI = {"rank": 1, "scale": 128.0, "scale_type": "tensor"}
CHANNEL = {"rank": 3, "scale": 4.0}
KINDS = pytest.mark.parametrize("options", [CHANNEL, MINI], ids=["channel", "mini"])
SHAPES = [(5, 9), (9, 5), (6, 6)]


def apollo(**options):
    return Apollo(**{"update_gap": 3} | options)


def numbers(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def restatement(options, key=0, limiter=1.01):
    tensor = options.get("scale_type") == "tensor"
    return restated.Apollo(options["rank"], 3, key, options["scale"], tensor, limiter)


# ---- projections


@pytest.mark.parametrize("key", [0, 1, 2**31, 2**32 + 5, 2**63 - 1, KEY])
def test_normal_numbers_are_as_restated(key):
    like = torch.empty(1, dtype=torch.float64)
    for turn in (0, 1, 1000):
        np.testing.assert_allclose(normal((7, 5), key, turn, like), restated.normal((7, 5), key, turn), rtol=1e-12)
        as_tensors = normal((7, 5), torch.tensor(key), torch.tensor(float(turn)), like)
        assert as_tensors.equal(normal((7, 5), key, turn, like))
    assert normal((2, 3), key, 0, torch.empty(1)).dtype == torch.float32


def test_the_hash_is_splitmix64():
    """Its first output from the seed 0, as published with the generator."""
    assert int(splitmix._mixed(torch.tensor(splitmix.GOLDEN))) % 2**64 == 0xE220A8397B1DCDAF


def test_normal_numbers_are_normal_and_independent():
    like, shape = torch.empty(1), (256, 256)
    draws = [(KEY, 0), (KEY, 1), (KEY, 2), (KEY + 1, 0), (KEY ^ 1 << 40, 0)]
    x = torch.stack([normal(shape, key, turn, like).flatten() for key, turn in draws]).double()
    assert (x.mean(1).abs() < 4 / 256).all() and (x.var(1) - 1).abs().max() < 0.03
    assert (x.pow(4).mean(1) - 3).abs().max() < 0.2
    for level, share in [(-2, 0.02275), (-1, 0.15866), (0, 0.5), (1, 0.84134), (2, 0.97725)]:
        assert ((x < level).double().mean(1) - share).abs().max() < 0.008
    off = torch.corrcoef(torch.cat([x[:, 1:], x[:, :-1]])) - torch.eye(10)
    assert off.abs().max() < 0.02
    matrix = normal(shape, KEY, 0, like) / 16
    assert 1.8 < torch.linalg.matrix_norm(matrix, 2) < 2.2  # no hidden structure: 2 for independent entries


def test_a_key_for_each_of_a_stack():
    keys, like = torch.tensor([5, KEY, 7]), torch.empty(1)
    together = normal((4, 2), keys, 3, like)
    assert together.equal(torch.stack([normal((4, 2), int(k), 3, like) for k in keys]))


# ---- the rule


@KINDS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limiter", [1.01, None])
def test_as_restated(shape, options, limiter):
    grads = [numbers(shape, t) * (1 + t % 3) for t in range(11)]  # four projections
    outs, _ = directions(apollo(**options, limiter=limiter), grads)
    wanted = restatement(options, limiter=limiter)
    for out, g in zip(outs, grads, strict=True):
        np.testing.assert_allclose(out, wanted(g.numpy()), rtol=1e-9, atol=1e-12)


@KINDS
@pytest.mark.parametrize("shape", SHAPES)
def test_slices_of_rows_are_as_the_whole(shape, options):
    grads = [numbers(shape, t) for t in range(7)]
    for cuts in [(2,), (1, 2, 4), (1, 2, 3, 4, 5, 6, 7, 8)]:
        whole, state = directions(apollo(**options), grads)
        apart, kept = directions(apollo(**options), grads, cuts=cuts)
        torch.testing.assert_close(apart, whole, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(kept, state, rtol=1e-11, atol=1e-13)


@KINDS
@pytest.mark.parametrize("lead", [(3,), (2, 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_stack_is_updated_as_its_members(shape, lead, options):
    """Each with its own scale and limit; one key for all, or one for every first index."""
    for key in (KEY, torch.arange(lead[0]) + KEY):
        together = state_for(apollo(**options), (*lead, *shape))
        apart = {}
        for t in range(1, 6):
            g = numbers((*lead, *shape), t)
            out = step(apollo(**options), g, together, t=t, key=key)
            for at in np.ndindex(*lead):
                own = key if isinstance(key, int) else int(key[at[0]])
                state = apart.setdefault(at, state_for(apollo(**options), shape))
                alone = step(apollo(**options), g[at], state, t=t, key=own)
                torch.testing.assert_close(out[at], alone, rtol=1e-11, atol=1e-13)


@KINDS
def test_the_key_and_the_window_choose_the_projection(options):
    g = numbers((6, 20))

    def first(key, t):
        rule = apollo(**options)
        return step(rule, g, state_for(rule, (6, 20)), t=t, key=key)

    assert first(KEY, 1).equal(first(KEY, 1))
    assert not first(KEY, 1).allclose(first(KEY + 1, 1))
    turns = [Apollo(update_gap=3).numbers(t)["turn"] for t in range(1, 8)]
    assert turns == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(("shape", "rank"), [((64, 400), 16), ((400, 64), 16)])
def test_the_scale_is_adams_up_to_the_root_of_the_rank(shape, rank):
    """Section 4: |Adam(R)| / |R| is about sqrt(rank / side) |Adam(G)| / |G|."""
    rule, adam = apollo(rank=rank, limiter=None, update_gap=100), Adam(eps=1e-6)
    state = state_for(rule, shape)
    for t in range(1, 30):
        g = numbers(shape, t) * torch.linspace(0.1, 3, max(shape)).view((1, -1) if shape[0] < shape[1] else (-1, 1))
        out, wanted = step(rule, g, state, t=t), adam(g.numpy())
    channels = 0 if shape[0] < shape[1] else 1
    ratio = out.norm(dim=channels).numpy() / np.linalg.norm(wanted, axis=channels)
    assert abs(np.median(ratio) / (rank / 64) ** 0.5 - 1) < 0.1
    assert np.quantile(ratio, 0.95) < 2 * np.median(ratio) and np.quantile(ratio, 0.05) > 0.5 * np.median(ratio)


@KINDS
def test_the_norm_grows_by_the_limiter_at_most(options):
    """Adam's direction fades while gradients are small and jumps with the first large one; an empty one is no norm."""
    sizes, norms = [1.0] + [1e-4] * 8 + [0.0, 1e3, 1.0], {}
    for limiter in (1.1, None):
        rule = apollo(**options, limiter=limiter)
        state = state_for(rule, (6, 8))
        outs = [step(rule, size * numbers((6, 8), t), state, t=t) for t, size in enumerate(sizes, 1)]
        assert outs[9].eq(0).all()
        norms[limiter] = [x.norm().item() for x in outs if x.any()]
        if limiter:
            assert state["update_norm"].item() * options["scale"] ** 0.5 == pytest.approx(norms[limiter][-1])
    growth = {k: [b / a for a, b in zip(v, v[1:], strict=False)] for k, v in norms.items()}
    assert growth[None][8] > 1.5 and growth[1.1][8] == pytest.approx(1.1) and max(growth[1.1]) < 1.1 + 1e-9


@pytest.mark.parametrize(("shape", "options"), [((3, 8), CHANNEL), ((8, 2), CHANNEL), ((1, 8), MINI), ((8, 1), MINI)])
def test_what_is_too_small_to_project_gets_adam(shape, options):
    adam, grads = Adam(eps=1e-6), [numbers(shape, t) for t in range(5)]
    outs, state = directions(apollo(**options), grads, cuts=(1,))
    assert {k: tuple(x.shape) for k, x in state.items()} == {"exp_avg": shape, "exp_avg_sq": shape}
    for out, g in zip(outs, grads, strict=True):
        np.testing.assert_allclose(out, adam(g.numpy()), rtol=1e-10)


@KINDS
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", extremes())
def test_odd_gradients(name, turned, options):
    grads = extremes()[name]
    outs, state = directions(apollo(**options), grads.mT if turned else grads, dtype=torch.float32)
    usual, _ = directions(apollo(**options), extremes()["1e+10"], dtype=torch.float32)
    assert all(x.isfinite().all() for x in outs)
    assert not any(x.isnan().any() for x in state.values())
    assert max(x.norm() for x in outs) < 20 * max(x.norm() for x in usual)
    if name == "0":
        assert all(x.eq(0).all() for x in outs)


def test_state_by_formula():
    slots = {shape: Apollo(density=0.25).slots(shape) for shape in [(8, 40), (40, 8), (3, 8, 40)]}
    assert {k: s.shape for k, s in slots[8, 40].items()} == {
        "exp_avg": (2, 40), "exp_avg_sq": (2, 40), "update_norm": (1, 1)
    }  # fmt: skip
    assert slots[40, 8]["exp_avg"].shape == (40, 2) and slots[3, 8, 40]["exp_avg"].shape == (3, 2, 40)
    assert slots[3, 8, 40]["update_norm"].shape == (3, 1, 1)
    assert "update_norm" not in Apollo(limiter=None).slots((8, 40))
    assert Apollo(rank=3).slots((8, 40))["exp_avg"].shape == (3, 40)


# ---- the policies


@pytest.mark.parametrize(
    ("policy", "options"), [(ApolloPolicy(rank=3, scale=4.0, update_gap=3), CHANNEL), (ApolloMini(update_gap=3), MINI)]
)
def test_trajectories_as_restated(policy, options):
    shapes = {"wide.weight": (6, 20), "twin.weight": (6, 20), "tall.weight": (20, 6), "norm.weight": (6,)}
    weights = tensors(shapes, torch.float64)
    optimizer = optimize(weights, policy=policy, lr=0.01, weight_decay=0.1, seed=3)
    rules = {n: restatement(options, stream(3, n)) for n in shapes if n != "norm.weight"}
    rules["norm.weight"] = Adam(eps=1e-6)
    wanted = {n: p.detach().numpy().copy() for n, p in weights.items()}
    for t in range(8):
        give(weights, t)
        optimizer.step()
        for n, p in weights.items():
            decay = 1 if n == "norm.weight" else 1 - 0.01 * 0.1
            wanted[n] = decay * wanted[n] - 0.01 * rules[n](p.grad.numpy())
    for n, p in weights.items():
        np.testing.assert_allclose(p.detach(), wanted[n], rtol=1e-9, err_msg=n)


@pytest.mark.parametrize("policy", ["apollo", "apollo_mini"])
@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_large_matrices_in_slices_as_in_one_piece(policy, codec, monkeypatch):
    shapes = {"a.weight": (96, 200), "b.weight": (200, 96), "c.weight": (2, 40, 150)}
    ends = []
    for size in (1 << 30, 2000):
        monkeypatch.setitem(slices.ELEMENTS, "cpu", size)
        weights = tensors(shapes)
        optimizer = optimize(weights, policy=policy, codec=codec, update_gap=2)
        advance(optimizer, weights, 4)
        ends.append(values(weights))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


def test_state_bytes():
    weights = tensors({"a.weight": (64, 80)})
    for policy, low in [(ApolloPolicy(), 16 * 80), (ApolloPolicy(rank=8), 8 * 80), (ApolloMini(), 80)]:
        optimizer = optimize(twin(weights), policy=policy)
        advance(optimizer, dict(zip(weights, optimizer.param_groups[0]["params"], strict=True)), 1)
        assert state_bytes(optimizer) == 8 * low + 4


@pytest.mark.parametrize("policy", ["apollo", "apollo_mini"])
def test_training_goes_on_from_a_state_dict_to_the_bit(policy):
    weights = tensors({"a.weight": (20, 24), "b.weight": (24, 20)})
    optimizer = optimize(weights, policy=policy, update_gap=3)
    advance(optimizer, weights, 4)
    copies = twin(weights)
    again = optimize(copies, policy=policy, update_gap=3)
    again.load_state_dict(optimizer.state_dict())
    for o, p in ((optimizer, weights), (again, copies)):
        advance(o, p, 4, 4)
    assert_same(values(weights), values(copies))


@pytest.mark.parametrize(
    "options",
    [{"rank": 0}, {"density": 0}, {"density": 1.5}, {"update_gap": 0}, {"scale": -1}, {"limiter": 0.5}, {"eps": -1}]
    + [{"betas": (1.0, 0.9)}, {"codec": "int3"}, {"head": "projected"}],
    ids=str,
)
def test_bad_options_are_named(options):
    with pytest.raises(HybridOptError, match=next(iter(options))):
        ApolloPolicy(**options)
    with pytest.raises(HybridOptError, match="scale_type"):
        Apollo(scale_type="row")


def test_matrices_by_apollo_everything_else_by_adamw():
    for policy in (ApolloPolicy(), ApolloMini()):
        for make in (models.tiny_llama, models.tiny_resnet, models.tiny_moe):
            for entry in Plan.of(params(make()), policy).entries:
                inner = entry.param.role in ("linear", "conv")
                assert type(entry.treatment.full).__name__ == ("Apollo" if inner else "AdamW"), entry


@pytest.mark.parametrize("policy", ["apollo", "apollo_mini"])
@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_the_loss_falls(policy, codec):
    model = wrap(models.tiny_llama(), policy=policy, codec=codec, update_gap=5)
    optimizer, losses = model.hybrid.optimizer(lr=1e-2), []
    for _ in range(20):
        loss = model(**models.batch(model)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
