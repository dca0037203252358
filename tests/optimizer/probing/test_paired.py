"""Evaluations in lockstep: each is as it would be alone, and whatever happens, everything is put back."""

import _thread
import random
import threading
import warnings
from functools import partial

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hybridopt.core.errors import HybridOptError, HybridOptWarning
from hybridopt.model.placement.placed import placed
from hybridopt.optimizer.probing.evaluate import Evaluator
from hybridopt.optimizer.probing.perturb import Perturbation
from support.placed import stand_in
from support.shifted import add, sha, still, subtract

SHIFTS = [add, subtract, still]


class Block(nn.Module):
    """Weights of its own, of modules in it, and one that is used without its module."""

    def __init__(self):
        super().__init__()
        self.own = nn.Parameter(torch.randn(8, 8))
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3))
        self.lent = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        x = x + self.inner(x @ self.own)
        noise = random.random() + float(numpy.random.rand())  # noqa: NPY002  # the global ones
        return torch.tanh(F.linear(x, self.lent.weight)) + 0.01 * noise


class Nested(nn.Module):
    """Layers in a module that has a weight of its own, and a tied weight before and after them."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.embedding = nn.Embedding(10, 8)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.bias = nn.Linear(10, 1)  # used without its module

    def forward(self, tokens):
        x = self.embedding(tokens) * self.scale
        for layer in self.layers:
            x = layer(x) * self.scale
        return F.cross_entropy(self.head(x) + self.bias.weight, tokens)


def nested():
    torch.manual_seed(0)
    return Nested()


def evaluator(model):
    for p in model.parameters():
        p.requires_grad_(False)
    return Evaluator(Perturbation(dict(model.named_parameters()), model))


def losses(model, closure, times=3, shifts=SHIFTS):
    """What several evaluations in a row come to, and the random numbers after them."""
    torch.manual_seed(1), random.seed(1), numpy.random.seed(1)
    each = evaluator(model)
    found = [each.losses(lambda: closure(model), shifts) for _ in range(times)]
    return found, torch.rand(1).item(), random.random(), numpy.random.rand()


def forward(model):
    return model(torch.arange(10))


def state(model):
    """Everything that must stay; layers come to rest for it."""
    placed(model).rest()
    return {name: (sha(x), id(x), x._version) for name, x in model.named_parameters()} | {
        name: (len(m._forward_pre_hooks), len(m._forward_hooks), {k: id(p) for k, p in m._parameters.items()})
        for name, m in model.named_modules()
    }


@pytest.fixture
def alike():
    """A model with layers at rest, and the same one that is resident."""
    model, other = nested(), nested()
    stand_in(model, slots=2)
    return model, other


def fetches(model):
    return placed(model).traffic.fetches


def check_alike(model, other, closure, **how):
    """The placed model's losses are the other's, and it shares a pass over its layers from the second time on."""
    before = state(model)
    assert losses(model, closure, **how) == losses(other, closure, **how)
    assert state(model) == before


def test_nested_tied_lent_and_loose_weights(alike):
    model, other = alike
    check_alike(model, other, forward)
    each = evaluator(model)
    each.losses(partial(forward, model), SHIFTS)
    before = fetches(model)
    each.losses(partial(forward, model), SHIFTS)
    assert fetches(model) - before <= 3  # a pass


def test_settings_of_the_caller_hold(alike):
    model, other = alike
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.device("cpu"):
            check_alike(model, other, forward)
    finally:
        torch.set_default_dtype(torch.float32)


def test_settings_that_a_closure_makes_are_its_own(alike):
    def closure(model):
        was, model.training = model.training, False
        model.eval()
        torch.set_default_dtype(torch.float64)
        try:
            return forward(model) + torch.zeros(1).sum()
        finally:
            torch.set_default_dtype(torch.float32)
            model.train(was)

    with warnings.catch_warnings():
        warnings.simplefilter("error", HybridOptWarning)
        check_alike(*alike, closure)
    assert alike[0].training and alike[0].layers[0].training


def test_a_closure_that_keeps_something_in_a_global_goes_one_after_the_other(alike):
    seen = []

    def closure(model):
        seen.append(len(seen))
        mine = seen[-1]
        found = forward(model)
        return found + (mine != seen[-1])

    with pytest.warns(HybridOptWarning, match="one after the other.*losses are others otherwise"):
        check_alike(*alike, closure)


def test_a_closure_of_one_thread_goes_one_after_the_other(alike):
    me = threading.get_ident()

    def closure(model):
        if threading.get_ident() != me:
            raise RuntimeError("not here")
        return forward(model)

    with pytest.warns(HybridOptWarning, match="RuntimeError otherwise: not here"):
        check_alike(*alike, closure)


def test_buffers_that_move_go_one_after_the_other(alike):
    for model in alike:
        model.layers[1].norm = nn.BatchNorm1d(8)
        model.layers[1].register_forward_hook(lambda m, _, out: m.norm(out))
    with pytest.warns(HybridOptWarning, match="a BatchNorm1d in training mode changes its buffers"):
        check_alike(*alike, forward)


def test_modes_of_a_thread_go_one_after_the_other(alike):
    with FlopCounterMode(display=False), pytest.warns(HybridOptWarning, match="FlopCounterMode is on"):
        check_alike(*alike, forward)


def test_a_weight_that_is_used_outside_of_its_layer_is_refused(alike):
    model, _ = alike
    before = state(model)
    with pytest.raises(HybridOptError, match="'layers.2.lent.weight' is used outside of the layer"):
        losses(model, lambda m: forward(m) + F.linear(torch.ones(8), m.layers[2].lent.weight).sum())
    assert state(model) == before


def test_an_error_in_one_ends_all(alike):
    model, other = alike
    each, failing = evaluator(model), []

    def fail(module, args):
        if failing and threading.current_thread().name.endswith("-1"):
            raise failing[0]

    model.layers[1].register_forward_pre_hook(fail)
    each.losses(partial(forward, model), SHIFTS)
    before = state(model), torch.get_rng_state(), threading.active_count()
    for error in (ValueError("wrong"), SystemExit(3)):
        failing[:] = [error]
        with pytest.raises(type(error)):
            each.losses(partial(forward, model), SHIFTS)
        assert state(model) == before[0] and torch.equal(torch.get_rng_state(), before[1])
        assert threading.active_count() == before[2]
    failing.clear()
    model.layers[1]._forward_pre_hooks.popitem()
    assert losses(model, forward) == losses(other, forward)


def test_an_interrupt_ends_all(alike):
    model, other = alike
    each, interrupting = evaluator(model), []

    def interrupt(module, args):
        if interrupting and threading.current_thread().name.endswith("-1"):
            interrupting.clear()
            _thread.interrupt_main()

    handle = model.layers[1].register_forward_pre_hook(interrupt)
    each.losses(partial(forward, model), SHIFTS)
    before = state(model), threading.active_count()
    interrupting.append(True)
    with pytest.raises(KeyboardInterrupt):
        each.losses(partial(forward, model), SHIFTS)
        threading.Event().wait(1)  # where it came late
    assert (state(model), threading.active_count()) == before
    handle.remove()
    assert losses(model, forward) == losses(other, forward)
