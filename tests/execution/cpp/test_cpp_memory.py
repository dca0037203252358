"""Kernels take addresses: what does not lie there as they read it goes another way, with the results of that."""

import os
import threading
import time
from contextlib import nullcontext

import pytest
import torch
from torch.utils._pytree import tree_map

from hybridopt import HybridOptimizer, Policy, Route, Treatment
from hybridopt.execution.backends.cpp import Cpp
from hybridopt.execution.printing.tracing import rounds as rounds_traced
from hybridopt.execution.printing.tracing import updates as traced
from hybridopt.parts import Columns, Lion, Momentum, NoUpdate, Rows, SignSGD
from hybridopt.parts.rules.adafactor import Adafactor

COLUMNS, ROWS = Treatment(Lion(), SignSGD(), Columns(0.3, 3)), Treatment(Momentum(), NoUpdate(), Rows(0.3, 3))


class Elsewhere(torch.Tensor):
    """A tensor that has its numbers in another one, and no memory of its own."""

    @staticmethod
    def __new__(cls, x):
        return torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype, strides=x.stride())

    def __init__(self, x):
        self.x = x

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args, kwargs = tree_map(lambda x: x.x if isinstance(x, Elsewhere) else x, (args, kwargs or {}))
        return function(*args, **kwargs)


class Run:
    """Steps on one matrix."""

    def __init__(self, treatment, compile, seed=0):
        random = torch.Generator().manual_seed(seed)
        self.p = torch.nn.Parameter(torch.randn(8, 32, generator=random))
        self.grads = [torch.randn(8, 32, generator=random) for _ in range(4)]
        policy = Policy((Route(treatment),))
        self.optimizer = HybridOptimizer([("w", self.p)], lr=1e-2, policy=policy, compile=compile)

    def step(self, count, made=lambda grad: grad.clone(), within=nullcontext):
        for _ in range(count):
            self.p.grad = made(self.grads.pop())
            with within():
                self.optimizer.step()
        return self

    @property
    def state(self):
        return self.optimizer.state[self.p]


GRADS = {
    "elsewhere": lambda grad: Elsewhere(grad.clone()),
    "negative": lambda grad: torch._neg_view(-grad),
    "zero": lambda grad: torch._efficientzerotensor(grad.shape),
}
STATES = {
    "dtype": lambda x: x.bfloat16(),
    "strides": lambda x: x.t().contiguous().t(),
    "shape": lambda x: x[0].clone(),
    "device": lambda x: x.to("meta"),
}


def tried(run, *args):
    """Step; return the weight, or what kind of error came."""
    try:
        return run.step(*args).p.detach()
    except Exception as error:
        return type(error)


def same(one, other):
    return one.equal(other) if isinstance(one, torch.Tensor) else one is other


@pytest.mark.parametrize("kind", GRADS)
def test_gradients_that_stand_for_other_memory(kind):
    fast, eager = (tried(Run(Treatment(Lion()), compile), 2, GRADS[kind]) for compile in (True, False))
    assert same(fast, eager)


@pytest.mark.parametrize("kind", STATES)
def test_state_that_was_changed_by_hand(kind):
    runs = [Run(Treatment(Lion()), compile).step(1) for compile in (True, False)]
    for run in runs:
        run.state["exp_avg"] = STATES[kind](run.state["exp_avg"])
    fast, eager = (tried(run, 1) for run in runs)
    assert same(fast, eager)


@pytest.mark.parametrize("treatment", [COLUMNS, ROWS], ids=["columns", "rows"])
def test_indices_that_change_without_being_counted(treatment):
    """As those that torch.distributed receives."""
    fast, eager = (Run(treatment, compile).step(1) for compile in (True, False))
    for run in (fast, eager):
        index = run.state["split.index"]
        index.data.copy_(torch.arange(len(index)) + int(index[0] == 0))
        run.step(1)
    assert fast.p.equal(eager.p)
    for name, x in fast.state.items():
        assert not isinstance(x, torch.Tensor) or x.equal(eager.state[name]), name


@pytest.mark.parametrize("within", [torch.inference_mode, lambda: torch.device("meta")], ids=["inference", "device"])
@pytest.mark.parametrize("treatment", [COLUMNS, ROWS, Treatment(Lion())], ids=["columns", "rows", "whole"])
def test_where_tensors_are_made_otherwise(treatment, within):
    assert Run(treatment, True).step(3, within=within).p.equal(Run(treatment, False).step(3).p)


def test_threads_that_begin_at_the_same_time():
    """torch.fx can trace but one function at a time."""
    traced._tried.cache_clear(), rounds_traced.rounds_of.cache_clear()
    treatments = [COLUMNS, ROWS, Treatment(Adafactor()), Treatment(Lion(betas=(0.7, 0.8)))]
    runs = [Run(treatment, True, i) for i, treatment in enumerate(treatments * 2)]
    threads = [threading.Thread(target=tried, args=(run, 2)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, run in enumerate(runs):
        assert run.p.equal(Run(treatments[i % 4], True, i).step(2).p), i


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_forked_child_has_no_threads_to_wait_for():
    before = torch.get_num_threads()
    params = [torch.nn.Parameter(torch.ones(64, 64)) for _ in range(4)]  # too small for torch's own threads
    optimizer = HybridOptimizer(params, lr=1e-2, policy="lion", compile=True)

    def step():
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()

    try:
        torch.set_num_threads(2)
        step()
        if not (child := os.fork()):
            step()
            os._exit(0)
        end = time.monotonic() + 20
        while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < end:
            time.sleep(0.01)
        if not ended:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert ended
    finally:
        torch.set_num_threads(before)


def test_all_of_it_is_about_kernels(monkeypatch):
    """Plain gradients and untouched state fit, before and after another way was taken; negated views are resolved."""
    seen, fits = [], Cpp.fits
    monkeypatch.setattr(Cpp, "fits", lambda self, task: seen.append(fits(self, task)) or seen[-1])
    run = Run(Treatment(Lion()), True).step(1)
    run.state["exp_avg"] = run.state["exp_avg"].t().contiguous().t()
    run.step(1)
    run.state["exp_avg"] = run.state["exp_avg"].contiguous()
    run.step(1).step(1, GRADS["negative"])
    assert seen == [True, False, True, True]
