"""Rules without state on models: as FRUGAL's free rule and as policies of their own."""

import pytest
import torch
from peft import LoraConfig

from hybridopt import HybridOptError, HybridOptimizer, Plan, wrap
from hybridopt.core.registry import make
from hybridopt.model.roles import params
from hybridopt.parts import AdamW, ColumnNorm, Sinkhorn, Whiten
from support import models, quantization
from support.parts import POLICIES
from support.rule_driver import step
from support.training import give, optimize, state_bytes, tensors

RULES = {"sinkhorn": Sinkhorn(), "column_norm": ColumnNorm(), "whiten": Whiten()}
NAMED = {"sinkgd": Sinkhorn, "scale": ColumnNorm, "swan": Whiten}
SHAPES = {"layers.0.large.weight": (700, 300), "layers.0.small.weight": (6, 5), "layers.0.experts.weight": (3, 4, 6)}


def losses(model, steps=6, lr=1e-2, **options):
    optimizer, found = model.hybrid.optimizer(lr=lr, **options), []
    for _ in range(steps):
        loss = model(**models.batch(model)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return optimizer, found


@pytest.mark.parametrize("policy", NAMED)
@pytest.mark.parametrize("build", [models.tiny_llama, models.tiny_moe, models.tiny_resnet], ids=lambda b: b.__name__)
def test_matrices_keep_no_state_and_the_loss_falls(policy, build):
    model = wrap(build(), policy=policy)
    for entry in Plan.of(params(model), POLICIES[policy]()).entries:
        inner = entry.param.role in ("linear", "conv") or (policy == "scale" and entry.param.role == "embedding")
        assert entry.tag == ("state-free" if inner else "state-full"), entry.param.name
        rule = entry.treatment.free if inner else entry.treatment.full
        momentum = policy == "scale" and entry.param.role == "head"
        assert type(rule) is (NAMED[policy] if inner or momentum else AdamW)
        assert not momentum or rule.momentum == 0.9
    optimizer, found = losses(model)
    assert found[-1] < found[0] - 0.1
    assert state_bytes(optimizer) == model.hybrid.report().totals.state_bytes


@pytest.mark.parametrize("policy", NAMED)
@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_lora_on_a_quantized_base(policy, release):
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = wrap(models.tiny_llama(), policy=policy, peft_config=config, quantization="nf4")
    before = quantization.fingerprint(model)
    optimizer, found = losses(model, release=release)
    assert found[-1] < found[0] and state_bytes(optimizer) == 0
    assert quantization.fingerprint(model) == before


@pytest.mark.parametrize("free", RULES)
@pytest.mark.parametrize("density", [0.0, 0.25])
def test_trained_int8_weights_and_bfloat16(free, density):
    for model, more in (
        (models.tiny_llama(), {"quantization": "int8-trainable"}),
        (models.tiny_llama().bfloat16(), {}),
    ):
        model = wrap(model, policy="frugal", free=free, density=density, **more)
        _, found = losses(model, steps=3, release="fused")
        assert found[-1] < found[0]


@pytest.mark.parametrize("free", RULES)
def test_the_optimizer_makes_the_steps_of_the_rule(free):
    """Also for a matrix so large that it is updated in slices, and for a stack."""
    given = tensors(SHAPES, torch.float64)
    weights = {n: p.detach().clone() for n, p in given.items()}
    optimizer = optimize(given, free=free, density=0.0, lr=0.01, free_lr_scale=0.5)
    for t in range(2):
        give(given, t)
        optimizer.step()
        for name, w in weights.items():
            w.sub_(0.005 * step(RULES[free], given[name].grad, {}))
    for name, p in given.items():
        torch.testing.assert_close(p.detach(), weights[name], rtol=1e-10, atol=1e-12, msg=name)
    assert state_bytes(optimizer) == 0


@pytest.mark.parametrize("free", RULES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 5), (5, 1), (0,), (0, 3), (3, 0)], ids=str)
def test_vectors_scalars_and_empty_weights(free, shape):
    """A vector is one row: brought to size one, whatever its gradient; zeros leave it where it is."""
    p = torch.nn.Parameter(torch.ones(shape))
    optimizer = HybridOptimizer([("layers.0.norm.weight", p)], policy="frugal", free=free, norms="free", lr=0.1)
    for grad in (0.0, 1e-3, 1e3):
        before, p.grad = p.detach().clone(), torch.full(shape, grad)
        optimizer.step()
        moved = (before - p.detach()).abs()
        assert moved.isfinite().all()
        if p.numel():
            assert moved.max() == 0 if grad == 0 else 0.06 < moved.square().mean().sqrt() < 0.12


@pytest.mark.parametrize("free", RULES)
def test_a_part_that_is_state_full_has_nothing_to_do_with_the_free_rule(free):
    """Norms and embeddings by AdamW go by themselves: as vectors, in slices, by torch's kernel."""
    plain, mine = (tensors({"norm.weight": (7,), "embed.weight": (900, 200)}) for _ in range(2))
    for weights, options in ((plain, {}), (mine, {"free": free})):
        optimizer = optimize(weights, lr=0.01, **options)
        for t in range(2):
            give(weights, t)
            optimizer.step()
        assert {tuple(x.shape) for x in optimizer.state[weights["norm.weight"]].values() if torch.is_tensor(x)} == {
            (7,)
        }
    assert all(p.equal(mine[n]) for n, p in plain.items())


@pytest.mark.parametrize("rule", RULES)
def test_single_entries_are_no_matrix(rule):
    with pytest.raises(HybridOptError, match=r"needs a matrix, got shape \(48,\); take split='columns'"):
        optimize(tensors({"a.weight": (12, 8)}), full=rule, split="randk", density=0.5)


def test_options_reach_the_rules():
    assert make("rules", "whiten", rows="none") == Whiten("none")
    wrapped = wrap(models.tiny_llama(), policy="frugal", free=Sinkhorn(2), density=0.0)
    assert {
        e.treatment.free for e in Plan.of(params(wrapped), POLICIES["sinkgd"](rounds=2)).entries if e.treatment
    } == {Sinkhorn(2)}
    tags = Plan.of(params(models.tiny_llama()), POLICIES["scale"](head="free")).tags
    assert tags["lm_head.weight"] == "state-free"
