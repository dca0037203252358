"""`embeddings_lr_scale`: a factor on the learning rate of embeddings and output layer, for every policy."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning, Policy
from hybridopt.core.registry import names, pack, unpack
from hybridopt.policy.routes import read_policy
from support.models import tiny_gpt2, tiny_llama
from support.training import give, tensors

SHAPES = {"embed_tokens.weight": (10, 8), "layers.0.w": (8, 8), "norm.weight": (8,), "lm_head.weight": (10, 8)}
ENDS = ("embed_tokens.weight", "lm_head.weight")
LR = 2.0**-10
ALL = {"embeddings": "full"}  # which badam and qzo freeze otherwise


def trained(params, groups, policy, **options):
    """The weights after three steps on given gradients, or on a loss where there are probes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HybridOptWarning)
        optimizer = HybridOptimizer(groups, lr=LR, policy=policy, **options)
    probed = any(r.use is not None and r.use.probed for r in read_policy(policy, options).routes)
    for step in range(3):
        give(params, step)
        if probed:
            optimizer.probe(lambda: sum(p.square().sum() for p in params.values()))
        else:
            optimizer.observe(1.0)
        optimizer.step()
    return {name: p.detach().clone() for name, p in params.items()}


@pytest.mark.parametrize("policy", [name for name in names("policies") if name != "qzo"])
def test_it_is_the_rate_of_a_param_group_times_the_factor(policy):
    options = ALL if policy == "badam" else {}
    one, other = tensors(SHAPES), tensors(SHAPES)
    ends = {"params": [(n, other[n]) for n in ENDS], "lr": 4 * LR}
    rest = {"params": [(n, p) for n, p in other.items() if n not in ENDS]}
    found = trained(one, list(one.items()), policy, embeddings_lr_scale=4.0, **options)
    wanted = trained(other, [ends, rest], policy, **options)
    third = tensors(SHAPES)
    plain = trained(third, list(third.items()), policy, **options)
    assert all(found[name].equal(wanted[name]) for name in SHAPES)
    assert not any(found[name].equal(plain[name]) for name in ENDS)


def test_decay_goes_by_the_plain_rate():
    params = tensors(SHAPES)
    before = {n: p.detach().clone() for n, p in params.items()}
    optimizer = HybridOptimizer(list(params.items()), 0.5, 0.5, "sgd", momentum=0.0, embeddings_lr_scale=4.0)
    for p in params.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(params[n].equal(0.75 * before[n]) for n in ENDS)


@pytest.mark.parametrize("make", [tiny_gpt2, lambda: tiny_llama(tie=True)], ids=["gpt2", "llama"])
def test_tied_embeddings_have_the_factor_once(make):
    model = hybridopt.wrap(make(), "scale", embeddings_lr_scale=10)
    found = {e.param.name: e.treatment.lr_scale for e in model.hybrid.resolved().entries if e.treatment.lr_scale != 1}
    assert 10 in found.values() and set(found.values()) == {10}
    assert all("embed" in name or "wte" in name or "wpe" in name for name in found)
    report = model.hybrid.report()
    assert report.as_dict()["lr_factors"]["head"] == [10] and "multiplied: " in str(report)
    assert "lr_factors" not in hybridopt.wrap(make(), "scale").hybrid.report().as_dict()


def test_it_is_saved_with_the_policy_and_left_out_of_older_ones():
    policy = read_policy("galore", {"embeddings_lr_scale": 4.0})
    data = pack(policy)
    assert unpack(json.loads(json.dumps(data)), "policies") == policy
    assert Policy.from_json(Policy(policy.routes).to_json()).routes == policy.routes
    data.pop("embeddings_lr_scale")
    assert unpack(data, "policies") == read_policy("galore", {})


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf"), "4", True, None], ids=str)
def test_what_is_no_factor_is_refused(factor):
    with pytest.raises(HybridOptError, match=r"lion: embeddings_lr_scale=.* is not allowed; give a number in"):
        read_policy("lion", {"embeddings_lr_scale": factor})


def test_where_neither_is_trained_it_is_said():
    lora = {"r": 2, "target_modules": ["q_proj"]}
    for modules, told in ((None, 1), (["lm_head"], 0)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            config = LoraConfig(**lora, modules_to_save=modules)
            model = hybridopt.wrap(tiny_llama(), "adamw", peft_config=config, embeddings_lr_scale=4)
            model.hybrid.optimizer()
        assert sum("embeddings_lr_scale=4 does nothing" in str(w.message) for w in said) == told
    assert model.hybrid.report().as_dict()["lr_factors"] == {"head": [4]}
    with pytest.warns(HybridOptWarning, match="embeddings_lr_scale=4 does nothing"):
        HybridOptimizer([("layers.0.w", torch.nn.Parameter(torch.ones(4, 4)))], policy="adamw", embeddings_lr_scale=4)
    with pytest.warns(HybridOptWarning, match="at 4 times the learning rate"):
        HybridOptimizer([torch.nn.Parameter(torch.ones(4, 4))], policy="adamw", embeddings_lr_scale=4)
