"""Bad input is refused before anything is changed; the text names what was given, what is allowed, and the cure."""

import math

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer, Policy, Route, Treatment, wrap
from hybridopt.core.registry import find, make
from support.training import assert_same, optimize, tensors, values

NAN = math.nan
OPTIONS = {
    "unknown policy": ({"policy": "frugl"}, ["policy='frugl'", "did you mean 'frugal'", "badam"]),
    "policy of another type": ({"policy": 3}, ["policy=3", "a name, a Policy or a path"]),
    "no policy file": ({"policy": "nowhere.json"}, ["nowhere.json", "missing"]),
    "unknown split": ({"split": "colums"}, ["split='colums'", "did you mean 'columns'"]),
    "unknown full rule": ({"full": "adamv"}, ["'adamv'", "did you mean 'adamw'"]),
    "unknown free rule": ({"free": "sing"}, ["'sing'", "signsgd"]),
    "unknown codec": ({"codec": "fp8"}, ["codec='fp8'", "int8"]),
    "unknown order": ({"split": "block", "order": "up"}, ["order='up'", "ascending, descending, mirror, random"]),
    "unknown option": ({"densty": 0.5}, ["'densty'", "0.5", "did you mean 'density'"]),
    "an option of another policy": ({"policy": "adamw", "density": 0.5}, ["'density'", "betas"]),
    "seed none": ({"seed": None}, ["seed=None", "whole number"]),
    "seed negative": ({"seed": -1}, ["seed=-1", "at least 0"]),
    "seed fraction": ({"seed": 0.5}, ["seed=0.5", "whole number"]),
    "unknown place": ({"norms": "ful"}, ["norms='ful'", "did you mean 'full'"]),
    "unknown nonfinite": ({"nonfinite": "warn"}, ["nonfinite='warn'", "ignore, raise, skip"]),
    "density above 1": ({"density": 1.1}, ["density=1.1", "[0, 1]"]),
    "density below 0": ({"density": -0.1}, ["density=-0.1", "[0, 1]"]),
    "density nan": ({"density": NAN}, ["density=nan", "[0, 1]"]),
    "density bool": ({"density": True}, ["density=True", "[0, 1]"]),
    "density text": ({"density": "0.5"}, ["density='0.5'", "[0, 1]"]),
    "density none": ({"density": None}, ["density=None", "[0, 1]"]),
    "gap zero": ({"update_gap": 0}, ["update_gap=0", "at least 1"]),
    "gap negative": ({"update_gap": -1}, ["update_gap=-1", "at least 1"]),
    "gap fraction": ({"update_gap": 1.5}, ["update_gap=1.5", "whole number"]),
    "gap bool": ({"update_gap": True}, ["update_gap=True", "whole number"]),
    "gap text": ({"update_gap": "10"}, ["update_gap='10'", "whole number"]),
    "lr nan": ({"lr": NAN}, ["lr=nan", "[0, 1e+06]"]),
    "lr negative": ({"lr": -0.1}, ["lr=-0.1", "[0, 1e+06]"]),
    "lr infinite": ({"lr": math.inf}, ["lr=inf", "[0, 1e+06]"]),
    "lr text": ({"lr": "0.1"}, ["lr='0.1'"]),
    "lr of two elements": ({"lr": torch.ones(2)}, ["lr", "one element", "(2,)"]),
    "lr tensor nan": ({"lr": torch.tensor(NAN)}, ["lr=nan"]),
    "decay negative": ({"weight_decay": -1}, ["weight_decay=-1"]),
    "decay nan": ({"weight_decay": NAN}, ["weight_decay=nan"]),
    "free_lr_scale negative": ({"free_lr_scale": -1}, ["free_lr_scale=-1"]),
    "lr_scale nan": ({"lr_scale": NAN}, ["lr_scale=nan"]),
    "reset text": ({"reset": "no"}, ["reset='no'", "True or False"]),
    "order without blocks": ({"order": "ascending"}, ["order='ascending'", "split='block'", "columns"]),
    "reset with a schedule": ({"reset": False, "density": make("schedules", "linear")}, ["reset=False", "constant"]),
    "state in the state-free rule": ({"free": "adamw"}, ["AdamW", "keeps state", "signsgd"]),
    "svd on vectors": ({"split": "svd", "biases": "split"}, ["'svd'", "'a.0.bias'", "(12,)", "columns"]),
    "random on vectors": ({"split": "random", "norms": "split"}, ["'random'", "'a.1.norm'", "(6,)"]),
    "density twice": ({"split": make("splits", "rows"), "density": 0.5}, ["density", "inside split"]),
    "a part of another kind": ({"split": {"part": "rules.adamw"}}, ["rules.adamw", "splits"]),
    "a class instead of a part": ({"full": find("rules", "adamw")}, ["AdamW", "name or an instance"]),
    "a split that is none": ({"split": 5}, ["5", "name or an instance"]),
    "beta of one": ({"policy": "adamw", "betas": (0.9, 1.0)}, ["betas[1]=1.0", "[0, 1)"]),
    "one beta": ({"policy": "adamw", "betas": (0.9,)}, ["betas", "two"]),
    "three betas": ({"policy": "adamw", "betas": (0.9, 0.9, 0.9)}, ["betas", "two"]),
    "beta of text": ({"policy": "adamw", "betas": "ab"}, ["betas"]),
    "betas of one number": ({"policy": "adamw", "betas": 0.9}, ["betas", "0.9"]),
    "eps negative": ({"policy": "adamw", "eps": -1.0}, ["eps=-1.0"]),
    "blocks zero": ({"policy": "badam", "blocks": 0}, ["blocks=0", "at least 1"]),
    "unknown side": ({"policy": "galore", "side": "up"}, ["side='up'", "reverse_std"]),
    "badam without state": ({"policy": "badam", "head": "free"}, ["head='free'", "frozen, full, split"]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    options, words = OPTIONS[name]
    params = tensors()
    before = values(params)
    with pytest.raises(HybridOptError) as caught:
        HybridOptimizer(list(params.items()), **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, RuntimeError)
    assert_same(before, values(params))
    assert not any(p._post_accumulate_grad_hooks for p in params.values())


@pytest.mark.parametrize(
    "name", [n for n in OPTIONS if not n.startswith(("lr ", "decay ", "unknown nonfinite", "svd", "random"))]
)
def test_wrap_refuses_the_same_options(name):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    options, words = OPTIONS[name]
    with pytest.raises(HybridOptError) as caught:
        wrap(model, **options)
    assert all(word in str(caught.value) for word in words)
    assert not hasattr(model, "hybrid") and all(p.requires_grad for p in model.parameters())


PARTS = {
    "rules.momentum": [({"momentum": 1.0}, "momentum=1.0"), ({"nesterov": True, "dampening": 0.1}, "nesterov")],
    "rules.lion": [({"betas": (0.9, -1)}, r"betas\[1\]=-1"), ({"betas": (0.9,)}, "betas")],
    "rules.adamw": [({"beta1": 0.9}, "'beta1'.*betas"), ({"eps": "tiny"}, "eps='tiny'")],
    "schedules.linear": [({"start": 2}, "start=2"), ({"steps": 0}, "steps=0"), ({"end": NAN}, "end=nan")],
    "schedules.steps": [
        ({"values": (0.5, 0.2, 0.1), "boundaries": (5, 5)}, "rising"),
        ({"values": (0.5,), "boundaries": (5,)}, "one value more"),
        ({"values": (0.5, 3), "boundaries": (5,)}, r"values\[1\]=3"),
        ({"values": 0.5}, "values|iterable"),
    ],
    "splits.block": [
        ({"unit": "row"}, "unit='row'.*layer"),
        ({"blocks": 1.5}, "blocks=1.5"),
        ({"order": 1}, "order=1"),
    ],
    "splits.columns": [({"density": "many"}, "density='many'"), ({"order": "random"}, "'order'.*update_gap")],
    "codecs.int8": [({"block": 8}, "block=8"), ({"exact_below": -1}, "exact_below=-1")],
}


@pytest.mark.parametrize(("name", "options", "text"), [(n, *case) for n, cases in PARTS.items() for case in cases])
def test_parts(name, options, text):
    kind, _, file = name.partition(".")
    with pytest.raises(HybridOptError, match=text):
        make(kind, file, **options)


def test_lists_are_as_good_as_tuples():
    found = []
    for sequence in (list, tuple):
        params = tensors()
        schedule = make("schedules", "steps", values=sequence((0.5, 0.25)), boundaries=sequence((2,)))
        rule = make("rules", "adamw", betas=sequence((0.9, 0.99)))
        optimizer = optimize(params, density=schedule, full=rule)
        for _ in range(4):
            for p in params.values():
                p.grad = torch.ones_like(p)
            optimizer.step()
        found.append(values(params))
    assert_same(*found)


ROUTES = {
    "unknown role": (lambda: Route(Treatment(), role="linaer"), ["role='linaer'", "did you mean 'linear'"]),
    "unknown role beside a known": (lambda: Route(None, role="linear|layers*"), ["role='layers*'"]),
    "no treatment": (lambda: Route("full"), ["use='full'", "Treatment"]),
    "a role that is no text": (lambda: Route(Treatment(), role=3), ["role=3"]),
    "a name that is no text": (lambda: Route(Treatment(), name=None), ["name=None"]),
    "no routes": (lambda: Policy(()), ["routes=()", "at least one"]),
    "no route objects": (lambda: Policy((Treatment(),)), ["routes=", "Route"]),
    "routes that are none": (lambda: Policy(3), ["routes=3"]),
    "a rule by name": (lambda: Treatment(full="adamw"), ["full='adamw'"]),
    "a split for a rule": (lambda: Treatment(full=make("splits", "rows")), ["full=Rows"]),
    "a rule for a split": (lambda: Treatment(split=make("rules", "adamw")), ["split=AdamW"]),
    "a split for a codec": (lambda: Treatment(codec=make("splits", "rows")), ["codec=Rows"]),
    "a codec for a store": (lambda: Treatment(store=make("codecs", "fp32")), ["store=Fp32"]),
    "decay negative": (lambda: Treatment(weight_decay=-1), ["weight_decay=-1"]),
}


@pytest.mark.parametrize("name", ROUTES)
def test_routes_and_treatments(name):
    make, words = ROUTES[name]
    with pytest.raises(HybridOptError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_route_that_matches_nothing_is_named():
    policy = Policy((Route(None, name="*.wte.*"), Route(Treatment())))
    params = tensors()
    with pytest.raises(HybridOptError, match=r"name='\*\.wte\.\*' matches no parameter.*'a.0.weight'"):
        HybridOptimizer(list(params.items()), policy=policy)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3))
    with pytest.raises(HybridOptError, match=r"wte.*'0.weight'"):
        wrap(model, policy=policy)
    assert not hasattr(model, "hybrid")


def test_a_parameter_without_a_route_is_named():
    policy = Policy((Route(Treatment(), role="linear"),))
    with pytest.raises(HybridOptError, match=r"no route fits parameter 'a.0.bias' \(role 'bias', shape \(12,\)\)"):
        HybridOptimizer(list(tensors().items()), policy=policy)


def test_a_store_that_does_not_fit_is_named():
    policy = Policy((Route(Treatment(store=make("stores", "bf16_stochastic"))),))
    with pytest.raises(HybridOptError, match="'a.0.weight'.*torch.float32.*store"):
        HybridOptimizer(list(tensors().items()), policy=policy)


def test_a_failed_addition_changes_nothing():
    params = tensors()
    optimizer = optimize(params)
    before = optimizer.state_dict()
    for bad in (
        {"params": [("b.w", torch.nn.Parameter(torch.ones(2, dtype=torch.complex64)))]},
        {"params": [("b.w", torch.nn.Parameter(torch.ones(2)))], "lr": -1.0},
        {"params": [("a.0.bias", torch.nn.Parameter(torch.ones(2)))]},
    ):
        with pytest.raises(HybridOptError):
            optimizer.add_param_group(bad)
        assert_same(before, optimizer.state_dict())
    optimizer.add_param_group({"params": [("b.w", torch.nn.Parameter(torch.ones(2)))]})
