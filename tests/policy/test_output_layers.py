"""What is said of output layers: of language models without state, and of parameters that have no names."""

import warnings

import pytest
import torch
from torch import nn

import hybridopt
from hybridopt import HybridOptimizer, HybridOptWarning
from support.architectures import build
from support.models import tiny_bert, tiny_gpt2, tiny_llama, tiny_lstm, tiny_resnet, tiny_vit

CURE = r"without names.*output layer.*model.named_parameters\(\)"


def said(make):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make()
    return [str(w.message) for w in told if issubclass(w.category, HybridOptWarning)]


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_lstm, lambda: tiny_llama(tie=True)], ids=range(4))
def test_the_output_layer_of_a_language_model_without_state(make):
    for policy in ("signsgd", "lomo"):
        told = said(lambda policy=policy: hybridopt.wrap(make(), policy).hybrid.optimizer())
        assert len(told) == 1 and "state-free" in told[0] and 'head="full"' in told[0]
    assert not said(lambda: hybridopt.wrap(make(), "signsgd", head="full"))
    assert not said(lambda: hybridopt.wrap(make(), "mezo"))


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet, lambda: build("llama classifier")], ids=range(4))
def test_that_of_a_classifier_is_no_reason_to_warn(make):
    for policy in ("signsgd", "lomo"):
        assert not said(lambda policy=policy: hybridopt.wrap(make(), policy))
    assert not said(lambda: HybridOptimizer(make().named_parameters(), policy="signsgd"))


def test_the_optimizer_alone_says_it_too():
    told = said(lambda: HybridOptimizer(tiny_llama().named_parameters(), policy="signsgd"))
    assert len(told) == 1 and "'lm_head.weight' is state-free" in told[0]


@pytest.mark.parametrize("policy", ["frugal", "galore", "qgalore", "muon", "apollo", "apollo_mini", "sinkgd", "scale"])
def test_parameters_without_names(policy):
    with pytest.warns(HybridOptWarning, match=CURE) as told:
        HybridOptimizer(tiny_llama().parameters(), policy=policy)
    assert len(told) == 1 and told[0].filename == __file__
    assert not said(lambda: HybridOptimizer(tiny_llama().named_parameters(), policy=policy))


@pytest.mark.parametrize("policy", ["adamw", "signsgd", "sgd", "lomo", "mezo", "lion", "adam_mini", "subzero"])
def test_policies_that_treat_all_alike_need_no_names(policy):
    assert not said(lambda: HybridOptimizer(tiny_llama().parameters(), policy=policy))


def test_no_names_are_needed_where_nothing_depends_on_them():
    vectors = [nn.Parameter(torch.ones(4))]
    assert not said(lambda: HybridOptimizer(vectors))
    assert not said(lambda: HybridOptimizer(tiny_llama().parameters(), density=1.0, split="block"))
    told = said(lambda: HybridOptimizer(vectors, policy="adamw", weight_decay=0.1))
    assert len(told) == 1 and "without weight decay" in told[0]


def test_groups_without_names_are_told_once():
    model = tiny_llama()
    groups = [{"params": list(module.parameters())} for module in (model.model, model.lm_head)]
    with pytest.warns(HybridOptWarning, match=CURE) as told:
        optimizer = HybridOptimizer(groups)
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(4, 4))]})
    assert len(told) == 1


def test_a_model_beside_them_tells_the_roles():
    model, made = tiny_llama(), []
    told = said(lambda: made.append(HybridOptimizer(model.parameters(), module=model)))
    tags = {id(p): g["tag"] for g in made[0].param_groups for p in g["params"]}
    assert not told and tags[id(model.lm_head.weight)] == "state-full"
    assert tags[id(model.model.layers[0].mlp.up_proj.weight)] == "split"
