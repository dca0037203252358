"""The policies of few bytes on models: alone, in bfloat16, convolutions and experts, LoRA on quantized bases."""

import pytest
import torch
from peft import LoraConfig

from hybridopt import HybridOptError, wrap
from hybridopt.core.registry import make
from support import quantization
from support.models import batch, tiny_llama, tiny_moe, tiny_resnet
from support.rule_driver import state_for, step
from support.training import give, optimize, state_bytes, tensors

RATES = {"adalomo": 1e-2, "adafactor": 1e-2, "came": 1e-3, "lion": 1e-3, "lomo": 0.1, "ip_sgd": 0.1, "sgd": 0.03}
FACTORED = {"adalomo": {}, "adafactor": {"beta1": 0.9}, "came": {}}
HALF = {"adafactor": ("exp_avg",), "came": ("exp_avg",)}  # what an int8 codec would shrink
pytestmark = pytest.mark.filterwarnings("ignore:the output layer is state-free")


def losses(model, policy, steps=4, **options):
    optimizer = model.hybrid.optimizer(lr=options.pop("lr", RATES[policy]))
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**batch(model)).loss
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return optimizer, found


@pytest.mark.parametrize("policy", RATES)
@pytest.mark.parametrize("make", [tiny_llama, tiny_moe, tiny_resnet], ids=lambda make: make.__name__)
def test_models_learn(policy, make):
    model = wrap(make(), policy=policy)
    optimizer, found = losses(model, policy)
    assert found[-1] < found[0] - 0.05
    assert state_bytes(optimizer) == model.hybrid.report().totals.state_bytes


@pytest.mark.parametrize("policy", RATES)
def test_bfloat16_weights_move_and_factors_stay_float32(policy):
    model = wrap(tiny_llama().bfloat16(), policy=policy)
    optimizer, found = losses(model, policy)
    assert found[-1] < found[0]
    kept = {x.dtype for s in optimizer.state.values() for x in s.values() if isinstance(x, torch.Tensor)}
    assert kept <= {torch.float32}


@pytest.mark.parametrize(("policy", "scheme"), [(p, "nf4") for p in RATES] + [("adalomo", "int8")])
def test_lora_on_a_quantized_base(policy, scheme):
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = wrap(tiny_llama(), policy=policy, peft_config=config, quantization=scheme)
    before = quantization.fingerprint(model)
    optimizer, found = losses(model, policy, lr=RATES[policy] * (10 if policy in ("lomo", "ip_sgd") else 3))
    assert found[-1] < found[0]
    assert quantization.fingerprint(model) == before
    assert all("lora" in n or p.grad is None for n, p in model.named_parameters())


@pytest.mark.parametrize("policy", FACTORED)
def test_the_optimizer_makes_the_steps_of_the_rule(policy):
    """Also for a matrix so large that it is updated in slices, for a vector, and for a stack."""
    shapes = {"large.weight": (700, 300), "small.weight": (6, 5), "norm.weight": (7,), "experts.weight": (3, 4, 6)}
    params = tensors(shapes, torch.float64)
    rule = make("rules", policy, **FACTORED[policy])
    optimizer = optimize(params, policy=policy, lr=0.01, **FACTORED[policy])
    weights = {n: p.detach().clone().view((1,) * (2 - p.ndim) + p.shape) for n, p in params.items()}
    states = {n: state_for(rule, w.shape) for n, w in weights.items()}
    for t in range(1, 4):
        give(params, t)
        optimizer.step()
        for name, w in weights.items():
            w.sub_(0.01 * step(rule, params[name].grad.view_as(w), states[name], w, t))
    for name, p in params.items():
        torch.testing.assert_close(p.detach(), weights[name].view_as(p), rtol=1e-10, atol=1e-12)
        for key, wanted in states[name].items():
            torch.testing.assert_close(optimizer.state[p][key].view_as(wanted), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", [*FACTORED, "normalized_sgd"])
def test_parts_that_are_no_matrices_are_refused(rule):
    with pytest.raises(HybridOptError, match=r"needs a matrix, got shape \(48,\); take split='columns'"):
        optimize(tensors({"a.weight": (12, 8)}), full=rule, split="randk")


@pytest.mark.parametrize("policy", HALF)
def test_a_codec_keeps_the_momentum_and_leaves_the_factors(policy):
    params = tensors({"w": (64, 160)})
    optimizer = optimize(params, policy=policy, codec="int8", **FACTORED[policy])
    give(params, 0)
    optimizer.step()
    state = optimizer.state[params["w"]]
    assert state["exp_avg"].dtype == torch.int8
    assert all(x.dtype == torch.float32 for k, x in state.items() if k.endswith(("_row", "_col")))


@pytest.mark.parametrize("policy", FACTORED)
def test_factors_are_thousandths_of_a_byte(policy):
    params = tensors({"w": (256, 512)})
    optimizer = optimize(params, policy=policy)
    give(params, 0)
    optimizer.step()
    factors = 4 * (256 + 512)
    assert state_bytes(optimizer) == (factors if policy != "came" else 2 * factors + 4 * 256 * 512)
