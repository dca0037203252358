"""What the launcher `accelerate` says of losses and gradients follows accelerate's own state."""

import subprocess
import sys

import pytest
import torch
from accelerate.state import GradientState

import hybridopt
from hybridopt import HybridOptError
from hybridopt.core.registry import make

LAUNCHER = make("launchers", "accelerate")


def test_micro_batches_before_the_last_accumulate():
    state = GradientState()
    assert not LAUNCHER.accumulating()
    state._set_sync_gradients(False)
    try:
        assert LAUNCHER.accumulating()
    finally:
        state._set_sync_gradients(True)
    assert not LAUNCHER.accumulating()


def test_without_accelerate_there_is_nothing_and_nothing_is_imported():
    code = (
        "import sys; from hybridopt.core.registry import every;"
        "print([(x.scaling(), x.accumulating()) for x in every('launchers')], 'accelerate' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(False, False), (False, False)] False"


@pytest.fixture
def loop():
    """A model and its optimizer with fused release, prepared, after a backward pass."""
    from accelerate import Accelerator

    def make(**how):
        accelerator = Accelerator(cpu=True)
        model = hybridopt.wrap(torch.nn.Sequential(torch.nn.Linear(4, 4)), policy="sgd")
        made = model.hybrid.optimizer(lr=0.1, **{"release": "fused"} | how)
        model, optimizer = accelerator.prepare(model, made)
        return accelerator, model, optimizer

    return make


def backward(accelerator, model):
    accelerator.backward(model(torch.ones(2, 4)).square().mean())


@pytest.mark.parametrize("name", ["clip_grad_norm_", "clip_grad_value_"])
def test_clipping_what_is_freed_is_refused(loop, name):
    accelerator, model, _ = loop()
    backward(accelerator, model)
    with pytest.raises(HybridOptError, match=rf"{name}\(..., 0.5\) comes too late.*clip_mode='previous'.*hold\(\)"):
        getattr(accelerator, name)(model.parameters(), 0.5)


@pytest.mark.parametrize("how", [{"release": "accumulate"}, {"clip": 0.5, "clip_mode": "previous"}])
def test_clipping_goes_on_where_gradients_are_there_or_the_optimizer_clips(loop, how):
    accelerator, model, optimizer = loop(**how)
    backward(accelerator, model)
    assert (accelerator.clip_grad_norm_(model.parameters(), 0.1) > 0.1) == ("clip" not in how)
    optimizer.step()


def test_clipping_what_is_held_and_what_belongs_to_others(loop):
    accelerator, model, optimizer = loop()
    with optimizer.optimizer.hold():
        backward(accelerator, model)
    assert accelerator.clip_grad_norm_(model.parameters(), 0.1) > 0.1
    optimizer.step()
    optimizer.zero_grad()
    backward(accelerator, model)
    other = torch.nn.Linear(2, 2)
    other(torch.ones(1, 2)).sum().backward()
    assert accelerator.clip_grad_norm_(other.parameters(), 0.1) > 0.1
    assert accelerator.clip_grad_norm_(model.parameters(), float("inf")) == 0  # asks for the norm alone
