"""Another optimizer that trains the parameters of a wrapped model is named at its first step, and nothing else is."""

import copy
import gc
import subprocess
import sys
import warnings
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks as hooks

import hybridopt
from hybridopt import HybridOptimizer, HybridOptWarning
from hybridopt.optimizer.foreign_optimizers import _others
from support.models import batch, tiny_llama
from support.trainers import arguments, data

TEXT = "AdamW trains .* of the .* parameters that model.hybrid is to train"


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def loss_of(model):
    return model(torch.ones(2, 4)).square().mean()


def steps(model, *optimizers, count=3):
    """Train, and return what hybridopt has said of other optimizers."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(count):
            for optimizer in optimizers:
                optimizer.zero_grad()
                loss_of(model).backward()
                optimizer.step()
    texts = [str(w.message) for w in said if issubclass(w.category, HybridOptWarning)]
    return [text for text in texts if "model.hybrid is to train" in text]


def test_it_is_said_once_with_the_cure():
    model = hybridopt.wrap(net())
    said = steps(model, torch.optim.AdamW(model.parameters()))
    assert len(said) == 1
    assert said[0].startswith("AdamW trains 4 of the 4 parameters that model.hybrid is to train (of a Sequential)")
    assert all(part in said[0] for part in ("policy Frugal", "HybridTrainer", "optimizers=(model.hybrid.", "unwrap()"))


@pytest.mark.parametrize("policy", ["adamw", "badam", "mezo", "addax"])
def test_whatever_the_policy(policy):
    model = hybridopt.wrap(net(), policy=policy)
    assert len(steps(model, torch.optim.SGD(model.parameters(), lr=0.1))) == 1


def test_once_a_model_and_an_optimizer():
    one, other = hybridopt.wrap(net()), hybridopt.wrap(net())
    first, second = torch.optim.AdamW(one.parameters()), torch.optim.AdamW(one.parameters())
    third = torch.optim.SGD(one.parameters(), lr=0.1)
    assert len(steps(one, first, second, third)) == 3
    assert steps(one, first, second, third) == []
    assert len(steps(other, torch.optim.AdamW(other.parameters()))) == 1


def test_a_model_that_is_wrapped_after_its_optimizer_was_made_and_used():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    assert steps(model, optimizer) == []
    hybridopt.wrap(model)
    assert len(steps(model, optimizer)) == 1


def test_an_optimizer_beside_one_of_its_own():
    model = hybridopt.wrap(net())
    own = model.hybrid.optimizer(lr=1e-3)
    assert len(steps(model, own, torch.optim.AdamW(model.parameters()))) == 1


def test_parameters_that_join_later():
    model, head = hybridopt.wrap(net()), nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.AdamW([head])
    head.grad = torch.ones(())
    assert steps(model, optimizer) == []
    optimizer.add_param_group({"params": list(model.parameters())})
    assert len(steps(model, optimizer)) == 1


def test_optimizers_that_make_their_gradients_in_a_closure():
    model = hybridopt.wrap(net())
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    with pytest.warns(HybridOptWarning, match="LBFGS trains 4 of the 4"):
        optimizer.step(closure)


def test_one_optimizer_a_parameter_says_it_once():
    model = hybridopt.wrap(net())
    assert len(steps(model, *[torch.optim.AdamW([p]) for p in model.parameters()])) == 1


def test_lora_of_wrap_and_lora_that_was_added_by_hand():
    config = LoraConfig(r=2, target_modules=["q_proj"])
    by_hand = get_peft_model(hybridopt.wrap(tiny_llama()), config)
    for model in (hybridopt.wrap(tiny_llama(), peft_config=config), by_hand):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        model(**batch(model)).loss.backward()
        with pytest.warns(HybridOptWarning, match="AdamW trains 4 of the 4"):
            optimizer.step()


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_nothing_is_said_of_its_own_optimizer(release):
    from accelerate import Accelerator

    model = hybridopt.wrap(net())
    optimizer = Accelerator(cpu=True).prepare(model.hybrid.optimizer(lr=1e-3, release=release))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    assert steps(model, optimizer) == []
    schedule.step()
    bare = hybridopt.wrap(net())
    assert steps(bare, HybridOptimizer(bare.named_parameters(), policy="adamw")) == []


class Container(torch.optim.Optimizer):
    """As Lookahead and SAM are made: an optimizer around another one."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__([p for group in inner.param_groups for p in group["params"]], {})

    def step(self, closure=None):
        return self.inner.step(closure)


def test_a_container_counts_as_what_it_contains():
    model = hybridopt.wrap(net())
    assert steps(model, Container(model.hybrid.optimizer(lr=1e-3))) == []
    said = steps(model, Container(torch.optim.AdamW(model.parameters())))
    assert said[0].startswith("Container trains")


def test_nothing_is_said_of_other_parameters():
    """A second network, an average of the weights, a head that the optimizer does not hold, a copy of the model."""
    model, other = hybridopt.wrap(net()), net()
    assert steps(other, torch.optim.AdamW(other.parameters())) == []
    own = model.hybrid.optimizer(lr=1e-3)
    twin = copy.deepcopy(model)
    assert steps(twin, torch.optim.AdamW(twin.parameters())) == []
    model.append(nn.Linear(4, 4))
    assert steps(model, own, torch.optim.AdamW(model[-1].parameters())) == []


def test_nothing_is_said_of_what_the_policy_freezes_or_what_has_no_gradient():
    from hybridopt import Policy, Route, Treatment

    model = hybridopt.wrap(net(), policy=Policy((Route(None, name="2.*"), Route(Treatment()))))
    own = model.hybrid.optimizer(lr=1e-3)
    model[2].requires_grad_(True)
    assert steps(model, own, torch.optim.AdamW(model[2].parameters())) == []
    idle = torch.optim.AdamW(model.parameters())
    model.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("error", HybridOptWarning)
        idle.step()


def test_nothing_is_said_after_unwrap():
    model = hybridopt.wrap(net())
    model.hybrid.unwrap()
    assert steps(model, torch.optim.AdamW(model.parameters())) == []


def test_the_hook_lives_as_long_as_wrapped_models_do():
    gc.collect()
    before = len(hooks) - (_others._hook is not None)
    kept = list(_others._wrapped)  # of other tests
    one, other = hybridopt.wrap(net()), hybridopt.wrap(net())
    optimizer = torch.optim.AdamW(one.parameters())
    steps(one, optimizer)
    assert len(hooks) == before + 1
    gone = weakref.ref(one), weakref.ref(one.hybrid), weakref.ref(optimizer)
    other.hybrid.unwrap()
    assert len(hooks) == before + 1
    del one, optimizer
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    assert set(kept) == set(_others._wrapped) and len(hooks) == before + bool(kept)


@pytest.mark.slow
def test_importing_asks_torch_for_nothing():
    code = "import hybridopt, torch.optim.optimizer as o; print(len(o._global_optimizer_pre_hooks))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


@pytest.mark.slow
def test_steps_that_torch_compiles():
    model, other = hybridopt.wrap(net()), net()
    optimizer = torch.optim.AdamW(other.parameters())
    step = torch.compile(optimizer.step, backend="eager")
    loss_of(other).backward()
    before = other[0].weight.detach().clone()
    step()
    assert "hybrid" in vars(model) and not torch.equal(other[0].weight, before)


@pytest.mark.slow
def test_the_plain_trainer(tmp_path):
    from transformers import Trainer

    settings = arguments(tmp_path, eval_strategy="no", save_strategy="no", max_steps=2)
    model = hybridopt.wrap(tiny_llama())
    with pytest.warns(HybridOptWarning, match=TEXT) as said:
        Trainer(model, settings, train_dataset=data()).train()
    assert len([w for w in said if issubclass(w.category, HybridOptWarning)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", HybridOptWarning)
        given = (model.hybrid.optimizer(lr=1e-3), None)
        Trainer(model, settings, train_dataset=data(), optimizers=given).train()
