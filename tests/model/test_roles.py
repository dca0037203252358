"""Every way to make an optimizer sees the same roles, and lets the same parameters decay, on many architectures."""

import pytest
import torch
from torch import nn
from transformers import Trainer

import hybridopt
from hybridopt import HybridOptimizer
from hybridopt.core.registry import names
from hybridopt.integrations.transformers import HybridOptimizerFactory
from hybridopt.model.roles import guess, guesses, params
from support.architectures import LIBRARY, OWN, build
from support.models import tiny_bert

ALL = [*LIBRARY, *OWN]
# Norms that are neither torch's LayerNorm nor called as the Trainer expects: it lets them decay, hybridopt does not.
UNKNOWN_TO_TRAINER = {"resnet": "normalization.weight", "mamba": "norm_f.weight"}


def roles_of(model):
    return {p.name: p.role for p in params(model)}


def decayed(optimizer):
    return {n for g in optimizer.param_groups for n in g["param_names"] if g["weight_decay"]}


def tagged(optimizer):
    return {n: g["tag"] for g in optimizer.param_groups for n in g["param_names"]}


def tied(model):
    """Names of weights that are the output layer's, too: their one name is the embedding's."""
    modules = dict(model.named_parameters(remove_duplicate=False))
    shown = dict(model.named_parameters())
    twice = {id(p) for n, p in modules.items() if n not in shown}
    return {n for n, p in shown.items() if id(p) in twice}


@pytest.mark.parametrize("name", ALL)
def test_names_tell_the_roles_that_the_tree_tells(name):
    """But for a tied output layer, as names do not say what else a tensor is used for."""
    model = build(name)
    live = roles_of(model)
    named = guesses(dict(model.named_parameters()))
    differ = {n for n in live if live[n] != named[n]}
    assert differ <= tied(model) and all((live[n], named[n]) == ("head", "embedding") for n in differ)


@pytest.mark.parametrize("name", ALL)
def test_the_same_parameters_decay(name):
    model = build(name)
    wanted = set(Trainer.get_decay_parameter_names(None, model)) & dict(model.named_parameters()).keys()
    exempt = {n for n in wanted if n.endswith(UNKNOWN_TO_TRAINER.get(name, "-"))}
    assert bool(exempt) == (name in UNKNOWN_TO_TRAINER)
    how = {"lr": 0.1, "weight_decay": 0.1}
    wrapped = hybridopt.wrap(model).hybrid.optimizer(**how)
    bare = HybridOptimizer(build(name).named_parameters(), **how)
    made = HybridOptimizerFactory()(build(name), **how)
    assert decayed(wrapped) == decayed(bare) == decayed(made) == wanted - exempt
    assert tagged(wrapped) == tagged(bare) == tagged(made)


@pytest.mark.parametrize("policy", [p for p in names("policies") if p not in ("qzo",)])
def test_no_bias_decays_whatever_the_policy(policy):
    optimizers = [
        hybridopt.wrap(tiny_bert(), policy=policy).hybrid.optimizer(lr=0.1, weight_decay=0.1),
        HybridOptimizer(tiny_bert().named_parameters(), lr=0.1, weight_decay=0.1, policy=policy),
    ]
    for optimizer in optimizers:
        assert decayed(optimizer) and not any(n.endswith("bias") or "LayerNorm" in n for n in decayed(optimizer))
    assert decayed(optimizers[0]) == decayed(optimizers[1])


def test_the_bias_of_an_output_layer_stands_still_without_a_gradient():
    model = tiny_bert()
    with torch.no_grad():
        model.classifier.bias.fill_(1.0)
    optimizer = hybridopt.wrap(model).hybrid.optimizer(lr=0.1, weight_decay=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = model.classifier.weight.detach().clone()
    optimizer.step()
    assert model.classifier.bias.eq(1).all() and model.classifier.weight.equal(before * 0.99)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("sequence", {"3.weight"}),
        ("equal sequence", set()),
        ("image transformer", {"head.weight"}),
        ("headless image transformer", set()),
        ("translator", {"out.weight"}),
        ("tower", set()),
        ("tower in sequence", set()),
        ("deberta v2", {"pooler.dense.weight", "classifier.weight"}),
        ("clip", set()),
    ],
)
def test_the_last_of_a_list_is_no_output_layer_because_it_is_last(name, head):
    assert {n for n, role in roles_of(build(name)).items() if role == "head"} == head


def test_an_output_layer_that_is_made_before_the_blocks_is_known_by_its_name():
    assert roles_of(Reversed("fc_out"))["fc_out.weight"] == "head"
    assert "head" not in roles_of(Reversed("begin")).values()


class Reversed(nn.Module):
    def __init__(self, name: str):
        super().__init__()
        self.add_module(name, nn.Linear(8, 4))
        self.layers = nn.ModuleList([nn.Linear(8, 8)])


def test_a_module_tells_what_names_do_not():
    """With `module` the roles are those of the tree, so that a tied output layer is one."""
    model = build("gpt2")
    frozen = tagged(HybridOptimizer(model.named_parameters(), policy="badam"))
    known = tagged(HybridOptimizer(model.named_parameters(), policy="badam", module=model))
    assert "transformer.wte.weight" not in frozen and known["transformer.wte.weight"] == "state-full"
    assert known == tagged(hybridopt.wrap(build("gpt2"), "badam").hybrid.optimizer())


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("layers.0.norm1.linear.weight", (8, 8), "linear"),  # of an adaptive norm
        ("layers.0.norm1.linear.bias", (8,), "bias"),
        ("norms.0.weight", (8,), "norm"),
        ("layer1.0.bn1.bias", (8,), "norm"),
        ("normal_head.weight", (8, 8), "head"),
        ("time_embedding.linear_1.weight", (8, 8), "linear"),
        ("rnn.bias_ih_l0", (8,), "bias"),
        ("cpb.continuous_position_bias_mlp.0.weight", (8, 2), "bias"),
        ("unbiased.weight", (8, 8), "linear"),
        ("act.weight", (1,), "other"),  # PReLU
        ("base_model.model.projector.weight", (8, 8), "linear"),
        ("experts.gate_up_proj", (4, 8, 8), "linear"),
    ],
)
def test_names_are_read_part_by_part(name, shape, role):
    assert guess(name, torch.empty(shape)) == role
