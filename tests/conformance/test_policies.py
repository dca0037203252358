"""Every policy: JSON both ways, every role of every model tagged, declared bytes = allocated bytes."""

import json

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer, Plan, Policy, Route, Treatment, wrap
from hybridopt.core.registry import KINDS, find, make, names, pack, unpack
from hybridopt.model.roles import ROLES, Param, guess, params
from hybridopt.policy.routes import pack_routes
from support import models
from support.parts import CODECS, MATRIX_ONLY, POLICIES, RULES, SCHEDULES, SPLITS, STORES, has
from support.training import state_bytes

MODELS = ("tiny_llama", "tiny_bert", "tiny_gpt2", "tiny_vit", "tiny_moe", "tiny_resnet", "tiny_lstm")
TAGS = {"state-full", "state-free", "split", "frozen"}
FRUGAL_SPLITS = [name for name in SPLITS if has(SPLITS[name], "density")]
SETTINGS = {
    "density": SCHEDULES["linear"](0.5, 0.25, 40),
    "codec": "int8",
    "betas": (0.8, 0.95),
    "full": RULES["lion"](),
    "split": "rows",
    "reset": True,
    "biases": "frozen",
    "order": "random",
}
OWN = {"apollo": {"density": 0.5}, "came": {"betas": (0.8, 0.95, 0.99)}, "lezo": {"density": 0.5}}


def test_the_names_are_the_files():
    for kind, known in [("rules", RULES), ("splits", SPLITS), ("codecs", CODECS), ("stores", STORES)]:
        assert names(kind) == tuple(known) and kind in KINDS
    for kind in KINDS:
        for name in names(kind):
            assert find(kind, name) is find(kind, name.replace("_", "-"))
            assert find(kind, name).__doc__
    assert set(POLICIES) >= {"adamw", "badam", "frugal", "galore", "signsgd"}


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "policies"])
def test_every_part_comes_back_from_json(kind):
    for name in names(kind):
        made = find(kind, name)()
        assert unpack(json.loads(json.dumps(pack(made))), kind) == made
        assert make(kind, name) == made == make(kind, made) == make(kind, pack(made))


@pytest.mark.parametrize("own", [False, True], ids=["defaults", "options"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_comes_back_from_json(name, own):
    options = {k: v for k, v in SETTINGS.items() if own and has(POLICIES[name], k)}
    options |= OWN.get(name, {}) if own else {}
    made = POLICIES[name](**options)
    assert unpack(json.loads(json.dumps(pack(made))), "policies") == made
    routes = Policy(made.routes)
    again = Policy.from_json(routes.to_json())
    assert again == routes and again.to_json() == routes.to_json()
    assert pack_routes(again) == pack_routes(made)
    for use in (r.use for r in routes.routes if r.use is not None):
        assert hash(use) == hash(next(r.use for r in again.routes if r.use == use))


def test_a_policy_file_works_as_a_policy(tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(Policy((Route(None, name="*.0.*"), Route(Treatment(), role="linear|head"), Route(None))).to_json())
    model = torch.nn.ModuleDict({"m": torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))})
    for given in (path, str(path), Policy.from_json(path)):
        optimizer = HybridOptimizer(model.named_parameters(), policy=given)
        assert [g["param_names"] for g in optimizer.param_groups] == [["m.1.weight"]]
    with pytest.raises(HybridOptError, match="density"):
        HybridOptimizer(model.named_parameters(), policy=path, density=0.5)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("name", POLICIES)
def test_every_parameter_of_every_model_is_tagged(name, make):
    model = getattr(models, make)()
    found = params(model)
    assert [p.name for p in found] == [n for n, _ in model.named_parameters()]
    assert {p.role for p in found} <= set(ROLES)
    plan = Plan.of(found, POLICIES[name]())
    assert list(plan.tags) == [p.name for p in found] and set(plan.tags.values()) <= TAGS
    roles = {p.name: p.role for p in found}
    for entry in plan.entries:
        still = entry.treatment is not None and entry.param.role in ("norm", "bias")
        assert not still or entry.treatment.weight_decay == 0
    assert "head" in roles.values() and "linear" in roles.values() or make == "tiny_resnet"
    if name == "frugal":
        split = {roles[n] for n, tag in plan.tags.items() if tag == "split"}
        assert split <= {"linear", "conv"} and split
    if name == "badam":
        assert {plan.tags[n] for n in roles if roles[n] == "embedding"} <= {"frozen"}


@pytest.mark.parametrize("name", FRUGAL_SPLITS)
def test_tags_say_how_much_is_state_full(name):
    def tag(density, **options):
        return Treatment(split=SPLITS[name](density, **options)).tag

    assert [tag(0), tag(0.0), tag(0.25), tag(1), tag(1.0)] == ["state-free"] * 2 + ["split"] + ["state-full"] * 2
    assert tag(SCHEDULES["linear"]()) == "split"
    assert name != "block" or tag(1.0, blocks=1) == "split"
    assert Treatment().tag == "state-full" and Treatment(split=SPLITS["empty"]()).tag == "state-free"


def test_roles_of_known_parameters():
    def role(make, name, **options):
        return {p.name: p.role for p in params(getattr(models, make)(**options))}[name]

    assert role("tiny_llama", "lm_head.weight") == "head"
    assert role("tiny_llama", "model.embed_tokens.weight") == "embedding"
    assert role("tiny_llama", "model.embed_tokens.weight", tie=True) == "head"
    assert role("tiny_llama", "model.layers.0.input_layernorm.weight") == "norm"
    assert role("tiny_llama", "model.layers.1.mlp.down_proj.weight") == "linear"
    assert role("tiny_gpt2", "transformer.wpe.weight") == "embedding"
    assert role("tiny_gpt2", "transformer.h.0.attn.c_attn.bias") == "bias"
    assert role("tiny_gpt2", "transformer.h.0.attn.c_attn.weight") == "linear"
    assert role("tiny_bert", "classifier.weight") == "head"
    assert role("tiny_vit", "classifier.bias") == "bias"
    assert role("tiny_moe", "model.layers.0.mlp.experts.down_proj") == "linear"
    assert role("tiny_resnet", "stem.weight") == "conv"
    assert role("tiny_resnet", "norm.bias") == "norm"
    assert role("tiny_resnet", "fc.weight") == "head"
    assert role("tiny_lstm", "lstm.weight_hh_l1") == "linear"
    assert role("tiny_lstm", "embedding.weight") == "embedding"


@pytest.mark.filterwarnings("ignore:the output layer is state-free")
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("policy", "options"),
    [("adamw", {}), ("badam", {"update_gap": 1}), ("galore", {"density": 0.5}), ("signsgd", {})]
    + [("frugal", {"split": split, "update_gap": 1, "density": 0.3}) for split in FRUGAL_SPLITS]
    + [("frugal", {"density": 0.0}), ("frugal", {"density": 1.0}), ("frugal", {"density": 1e-9, "norms": "split"})],
)
def test_declared_bytes_are_allocated_bytes(policy, options, codec):
    options = options | ({"codec": codec} if has(POLICIES[policy], "codec") else {})
    for build in (models.tiny_llama, models.tiny_resnet):
        model = wrap(build(hidden=64) if build is models.tiny_llama else build(), policy=policy, **options)
        optimizer, seen, told = model.hybrid.optimizer(lr=1e-3), [], model.hybrid.report().totals.state_bytes
        for _ in range(9 if options.get("split") == "block" or policy == "badam" else 1):
            model(**models.batch(model, size=1)).loss.backward()
            optimizer.step()
            seen.append(state_bytes(optimizer))
        assert max(seen) == told
        tensors = [x for s in optimizer.state.values() for x in s.values() if isinstance(x, torch.Tensor)]
        assert (told == 0) == (not tensors) == (policy == "signsgd")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"density": 1.0}, 8 * 6400),
        ({"density": 0.0}, 0),
        ({"density": 0.25}, 8 * 1600 + 8 * 20),  # 20 columns and their indices
        ({"density": 0.25, "split": "rows"}, 8 * 1600 + 8 * 20),
        ({"density": 0.25, "split": "randk"}, 8 * 1600 + 16),
        ({"density": 0.25, "split": "svd"}, 8 * 1600 + 4 * 1600),  # 20 directions of 80
        ({"density": 0.25, "full": "lion"}, 4 * 1600 + 8 * 20),
        ({"density": 1.0, "codec": "bf16"}, 4 * 6400),
        ({"density": 1.0, "codec": "int8"}, 2 * (6400 + 4 * 25)),
    ],
    ids=str,
)
def test_bytes_by_formula(options, wanted):
    p = torch.nn.Parameter(torch.ones(80, 80))
    optimizer = HybridOptimizer([("layers.0.w", p)], **options)
    p.grad = torch.ones(80, 80)
    optimizer.step()
    assert state_bytes(optimizer) == wanted


@pytest.mark.parametrize("shape", [(1,), (), (0,), (3, 0), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("split", FRUGAL_SPLITS)
def test_declared_bytes_of_odd_shapes(split, shape):
    if split in MATRIX_ONLY and len(shape) < 2:
        return
    policy = Policy((Route(Treatment(split=SPLITS[split](0.5, 1))),))
    p = torch.nn.Parameter(torch.ones(shape))
    optimizer = HybridOptimizer([("w", p)], policy=policy)
    p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    plan = Plan.of([Param("w", guess("w", p), shape, p.dtype)], policy)
    assert plan.largest(["w"]) == state_bytes(optimizer)
