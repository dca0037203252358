"""Groups that a user gives stay groups: schedulers, indices, names and saved states go by them."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import lr_scheduler as schedulers

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning
from support.models import batch, tiny_llama
from support.training import through_a_file

RATES = (1e-2, 1e-3)
GAP = 3


def net():
    """A body, and a head under its own name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.ModuleDict(
            {"body": nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 16)), "head": nn.Linear(16, 2)}
        )


def groups_of(model, rates=RATES, **more):
    named = {part: list(model[part].named_parameters(part)) for part in ("body", "head")}
    return [{"params": named[n], "lr": lr, "name": n, **more} for n, lr in zip(named, rates, strict=True)]


def make(model, policy="frugal", **options):
    gap = {"update_gap": GAP} if policy in ("frugal", "galore") else {}
    return HybridOptimizer(groups_of(model), policy=policy, weight_decay=0.1, **gap | options)


def train(model, optimizer, steps, start=0, each=lambda step: None):
    for step in range(start, start + steps):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        model["head"](model["body"](x)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        each(step)


def same(one, other):
    return all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("policy", ["frugal", "galore", "adamw", "signsgd", "muon", "adam_mini"])
@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_groups_stay_those_that_were_given(policy, release):
    model = net()
    optimizer = make(model, policy, release=release)
    assert [(g["name"], g["user_group"], g["lr"]) for g in optimizer.param_groups] == [
        ("body", 0, 1e-2),
        ("head", 1, 1e-3),
    ]
    assert [len(g["params"]) for g in optimizer.param_groups] == [6, 2]
    before = copy.deepcopy(model)
    optimizer.param_groups[1]["lr"] = 0.0
    train(model, optimizer, 2)
    assert same(model["head"], before["head"])
    assert not any(a.equal(b) for a, b in zip(model["body"].parameters(), before["body"].parameters(), strict=True))


@pytest.mark.parametrize("policy", ["frugal", "galore", "muon", "badam"])
@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_every_parameter_moves_as_in_the_groups_of_the_policy(policy, release):
    """One learning rate: the same bits, whether the policy divides the parameters or the user has."""
    flat, mine = net(), net()
    names = [*flat["body"].named_parameters("body.layers.0"), *flat["head"].named_parameters("head")]
    own = [
        {"params": [*mine["body"].named_parameters("body.layers.0")]},
        {"params": [*mine["head"].named_parameters("head")]},
    ]
    how = {"policy": policy, "lr": 1e-2, "weight_decay": 0.1, "release": release}
    train(flat, HybridOptimizer(names, **how), 3)
    train(mine, HybridOptimizer(own, **how), 3)
    assert same(flat, mine)


SCHEDULERS = {
    "lambda": lambda o: schedulers.LambdaLR(o, [lambda e: 0.5**e, lambda e: 1 / (1 + e)]),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, [lambda e: 0.9, lambda e: 0.5]),
    "one cycle": lambda o: schedulers.OneCycleLR(o, max_lr=[0.1, 0.2], total_steps=8, cycle_momentum=False),
    "cyclic": lambda o: schedulers.CyclicLR(o, [1e-3, 1e-4], [1e-2, 1e-3], step_size_up=3, cycle_momentum=False),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 6, eta_min=1e-5),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 2), schedulers.LambdaLR(o, [lambda e: 1.0, lambda e: 0.5])]
    ),
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=2), schedulers.LambdaLR(o, [lambda e: 1.0, lambda e: 0.9**e])], [2]
    ),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.1, patience=0, min_lr=[5e-3, 5e-4]),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_take_one_value_a_group(name):
    """And go on from a saved state: optimizer and scheduler are made anew in the middle."""
    model, other = net(), net()
    mine, theirs = make(model), torch.optim.AdamW(groups_of(other))
    one, two = SCHEDULERS[name](mine), SCHEDULERS[name](theirs)

    def move(scheduler):
        scheduler.step(*([1.0] if name == "plateau" else []))

    for step in range(6):
        train(model, mine, 1, step)
        theirs.step()
        move(one), move(two)
        assert [g["lr"] for g in mine.param_groups] == [g["lr"] for g in theirs.param_groups]
        if step == 2:
            saved, rates, kept = through_a_file(mine.state_dict()), one.state_dict(), copy.deepcopy(model)
    again = make(kept)
    resumed = SCHEDULERS[name](again)
    again.load_state_dict(saved), resumed.load_state_dict(rates)
    train(kept, again, 3, 3, each=lambda step: move(resumed))
    assert same(kept, model) and [g["lr"] for g in again.param_groups] == [g["lr"] for g in mine.param_groups]


def test_a_scheduler_of_one_value_wants_one_group():
    """A plain list is divided by the policy; the same in a dict is one group."""
    model = net()
    plain = HybridOptimizer(model.named_parameters(), lr=1e-2)
    assert len(plain.param_groups) > 1 and {g["user_group"] for g in plain.param_groups} == {0}
    whole = HybridOptimizer([{"params": list(model.named_parameters())}], lr=1e-2)
    assert [g["tag"] for g in whole.param_groups] == ["mixed"]
    schedulers.LambdaLR(whole, [lambda e: 0.5])


def test_norms_and_biases_do_not_decay_unless_the_group_says_so():
    for own, exempt in ({}, True), ({"weight_decay": 0.1}, False):
        model = net()
        optimizer = HybridOptimizer(groups_of(model, **own), weight_decay=0.1)
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(1.0)
                p.grad = torch.zeros_like(p)
        optimizer.step()
        still = {n for n, p in model.named_parameters() if p.eq(1).all()}
        assert still == ({n for n, p in model.named_parameters() if p.ndim == 1} if exempt else set())


def test_a_schedule_of_weight_decay_leaves_the_exempt_alone():
    model = net()
    optimizer = make(model)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.5
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
            p.grad = torch.zeros_like(p)
    optimizer.step()
    assert model["head"].weight.eq(1 - 1e-3 * 0.5).all() and model["head"].bias.eq(1).all()


def test_groups_without_anything_to_train_keep_their_places():
    model = net()
    given = groups_of(model)
    given.insert(1, {"params": [], "lr": 5.0})
    optimizer = HybridOptimizer(given, policy="badam", head="frozen", update_gap=GAP)
    assert [g["user_group"] for g in optimizer.param_groups] == [0, 1, 2]
    assert [len(g["params"]) > 0 for g in optimizer.param_groups] == [True, False, True]
    train(model, optimizer, 2)
    again = HybridOptimizer(given, policy="badam", head="frozen", update_gap=GAP)
    again.load_state_dict(through_a_file(optimizer.state_dict()))
    assert [g["step"] for g in again.param_groups] == [2, 2, 2]


def test_a_group_that_is_added_is_one_more_group():
    model = net()
    optimizer = HybridOptimizer(model["body"].named_parameters("body"), lr=1e-2)
    first = len(optimizer.param_groups)
    optimizer.add_param_group({"params": list(model["head"].named_parameters("head")), "lr": 1e-3, "name": "head"})
    assert len(optimizer.param_groups) == first + 1
    assert [g["user_group"] for g in optimizer.param_groups] == [0] * first + [1]
    train(model, optimizer, 2)


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda x: through_a_file(x, weights_only=False)], ids=["copy", "pickle"]
)
def test_copies_keep_the_groups(copier):
    model = net()
    optimizer = make(model)
    train(model, optimizer, 4)
    twin, other = copier((model, optimizer))
    other.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] = 5e-3
    train(model, optimizer, 4, 4)
    train(twin, other, 4, 4)
    assert same(model, twin) and len(other.param_groups) == 2


@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoint(flat):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model = net()
    optimizer = make(model)
    train(model, optimizer, 4)
    twin = copy.deepcopy(model)
    other = make(twin)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    set_optimizer_state_dict(twin, other, saved, options=options)
    train(model, optimizer, 4, 4)
    train(twin, other, 4, 4)
    assert same(model, twin)


# ---- saved in other groups


def one_group(model, **how):
    return HybridOptimizer(
        [{"params": list(model.named_parameters())}], lr=1e-2, weight_decay=0.1, update_gap=GAP, **how
    )


def divided(model, **how):
    return HybridOptimizer(model.named_parameters(), lr=1e-2, weight_decay=0.1, update_gap=GAP, **how)


def equal_rates(model, **how):
    return HybridOptimizer(groups_of(model, (1e-2, 1e-2)), weight_decay=0.1, update_gap=GAP, **how)


FORMS = [one_group, divided, equal_rates]


@pytest.mark.parametrize("before", FORMS)
@pytest.mark.parametrize("after", FORMS)
def test_a_state_goes_into_other_groups(before, after):
    model = net()
    optimizer = before(model)
    train(model, optimizer, 4)
    twin = copy.deepcopy(model)
    other = after(twin)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert len(other.param_groups) == len(after(net()).param_groups)
    train(model, optimizer, 5, 4)
    train(twin, other, 5, 4)
    assert same(model, twin)


def test_groups_that_differ_do_not_become_one():
    model = net()
    saved = make(model).state_dict()
    other = divided(net())
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(HybridOptError, match=r"body.*different lr \(0.01 and 0.001\).*groups it was saved with"):
        other.load_state_dict(saved)
    with pytest.raises(HybridOptError, match="different lr"):
        one_group(net()).load_state_dict(saved)
    assert other.state_dict() == before
    saved["param_groups"][0]["lr"] = 1e-3
    saved["param_groups"][0]["weight_decay"] = 0.3
    with pytest.raises(HybridOptError, match="different weight_decay"):
        one_group(net()).load_state_dict(saved)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: g.pop("treatments"),
        lambda g: g.update(treatments=3),
        lambda g: g["treatments"].pop("body.0.weight"),
        lambda g: g["treatments"].update({"body.0.weight": "{}"}),
        lambda g: g["treatments"].update({"body.0.weight": 5}),
        lambda g: g.update(step=-1),
        lambda g: g.pop("param_names"),
        lambda g: g["params"].pop(),
    ],
    ids=range(8),
)
def test_spoiled_groups_are_refused(spoil):
    model = net()
    optimizer = make(model)
    train(model, optimizer, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    spoil(saved["param_groups"][0])
    before = copy.deepcopy(optimizer.state_dict()["param_groups"])
    with pytest.raises(HybridOptError):
        optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["param_groups"] == before


def test_a_state_saved_when_the_bias_of_an_output_layer_decayed():
    model = net()
    optimizer = divided(model)
    train(model, optimizer, 2)
    saved = through_a_file(optimizer.state_dict())
    bias, head = ("head.bias", "head.weight")
    source = next(g for g in saved["param_groups"] if bias in g["param_names"])
    target = next(g for g in saved["param_groups"] if head in g["param_names"])
    at = source["param_names"].index(bias)
    target["param_names"].append(source["param_names"].pop(at))
    target["params"].append(source["params"].pop(at))
    assert json.loads(target["treatment"])["weight_decay"] is None
    other = divided(copy.deepcopy(model))
    with pytest.warns(HybridOptWarning, match="'head.bias'.*weight_decay=0.1.*0.0 from now on") as told:
        other.load_state_dict(saved)
    assert len(told) == 1 and [g["weight_decay"] for g in other.param_groups] == [
        g["weight_decay"] for g in optimizer.param_groups
    ]


# ---- names of DistributedDataParallel


def in_module(named):
    return [(f"module.{n}", p) for n, p in named]


def test_names_under_ddp_are_those_without():
    plain, held = tiny_llama(), tiny_llama()
    one = HybridOptimizer(plain.named_parameters(), lr=1e-2, update_gap=2)
    two = HybridOptimizer(in_module(held.named_parameters()), lr=1e-2, update_gap=2)
    assert [(g["tag"], g["param_names"]) for g in one.param_groups] == [
        (g["tag"], g["param_names"]) for g in two.param_groups
    ]
    for model, optimizer in (plain, one), (held, two):
        for _ in range(3):
            model(**batch(model)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert same(plain, held)
    one.load_state_dict(two.state_dict())
    two.load_state_dict(one.state_dict())


def test_a_state_saved_with_the_names_of_ddp_loads():
    model = net()
    optimizer = divided(model)
    train(model, optimizer, 2)
    saved = through_a_file(optimizer.state_dict())
    for group in saved["param_groups"]:
        group["param_names"] = [f"module.{n}" for n in group["param_names"]]
    other = divided(copy.deepcopy(model))
    other.load_state_dict(saved)
    assert [g["step"] for g in other.param_groups] == [2] * len(other.param_groups)


def test_groups_under_ddp_that_share_a_prefix_only_as_a_whole():
    """A model may have a child called module: its name stays where others have other names."""
    named = [("module.weight", nn.Parameter(torch.ones(4, 4))), ("head.weight", nn.Parameter(torch.ones(4, 4)))]
    optimizer = HybridOptimizer(named)
    assert {n for g in optimizer.param_groups for n in g["param_names"]} == {"module.weight", "head.weight"}
    apart = HybridOptimizer([{"params": [pair]} for pair in named])
    assert [g["param_names"] for g in apart.param_groups] == [["module.weight"], ["head.weight"]]


# ---- one rate set, and others forgotten


def test_a_rate_set_in_the_first_group_only_is_told():
    model = net()
    optimizer = divided(model)
    train(model, optimizer, 1)
    optimizer.param_groups[0]["lr"] = 5e-3
    with pytest.warns(
        HybridOptWarning, match=r"lr=0.005.*param_groups\[0\].*0.01.*for group in optimizer.param_groups"
    ) as told:
        train(model, optimizer, 3, 1)
    assert len(told) == 1


@pytest.mark.filterwarnings("error::hybridopt.HybridOptWarning")
def test_rates_set_in_every_group_or_by_tag_are_no_accident():
    model = net()
    optimizer = divided(model)
    scheduler = schedulers.CosineAnnealingLR(optimizer, 5)
    train(model, optimizer, 3, each=lambda step: scheduler.step())
    for group in optimizer.param_groups[1:]:
        group["lr"] = 1e-4
    train(model, optimizer, 2)
    user = make(net())
    user.param_groups[0]["lr"] = 1e-5
    user.step()
    wrapped = hybridopt.wrap(tiny_llama(), policy="adamw").hybrid.optimizer()
    for group in wrapped.param_groups:
        group["lr"] = 1e-5
    wrapped.step()
