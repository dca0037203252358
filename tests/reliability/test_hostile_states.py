"""Spoilt optimizer states: only HybridOptError with nothing changed, or a load that trains on with finite weights."""

import copy
import io
import random

import pytest
import torch

from support.hostile_states import POLICIES, SHAPES, advance, campaign, make
from support.training import assert_same


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_spoilt_states(start):
    counted, bad = campaign(range(start, start + 20))
    assert not bad and counted["refused"] >= 10


@pytest.mark.filterwarnings("ignore:.*was frozen since the last step")
@pytest.mark.parametrize("policy", POLICIES)
def test_no_state_of_a_run_is_refused(policy):
    """Not in the middle of a window, nor where parameters had no gradient when a window began."""
    rng, (params, optimizer) = random.Random(policy), make(policy)
    for step in range(8):
        buffer = io.BytesIO()
        torch.save(optimizer.state_dict(), buffer)
        saved = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
        optimizer.load_state_dict(saved)
        assert_same(optimizer.state_dict(), saved)
        copied = copy.deepcopy(optimizer)
        copied.load_state_dict(saved)
        for name in SHAPES:
            params[name].requires_grad_(rng.random() < 0.7 or name == "layers.0.weight")
            params[name].grad = None
        advance(optimizer, {n: p for n, p in params.items() if p.requires_grad}, step)
