"""The Lion policy against the rule's restatement."""

import numpy as np
import pytest
import torch

from hybridopt import HybridOptError
from support.reference.rules import Lion as Restated
from support.training import advance, give, optimize, state_bytes, tensors, values

LR, DECAY = 0.01, 0.1


def test_as_restated():
    params = tensors(dtype=torch.float64)
    optimizer = optimize(params, policy="lion", betas=(0.8, 0.95), lr=LR, weight_decay=DECAY)
    restated = {n: Restated(0.8, 0.95) for n in params}
    weights = {n: p.detach().numpy().copy() for n, p in params.items()}
    for step in range(10):
        give(params, step)
        optimizer.step()
        for name, p in params.items():
            decay = 0 if name in ("a.0.bias", "a.1.norm") else DECAY
            weights[name] = (1 - LR * decay) * weights[name] - LR * restated[name](p.grad.numpy())
    for name, p in params.items():
        np.testing.assert_allclose(p.detach().numpy(), weights[name], 1e-12, 1e-14)


def test_half_of_the_state_of_adamw_and_less_compressed():
    for options, wanted in ({}, 4 * 64 * 160), ({"codec": "int8"}, 64 * 160 * (1 + 4 / 256)):
        params = tensors({"w": (64, 160)})
        optimizer = optimize(params, policy="lion", **options)
        advance(optimizer, params, 3)
        assert state_bytes(optimizer) == wanted


def test_places():
    params = tensors()
    before = values(params)
    optimizer = optimize(params, policy="lion", norms="frozen", biases="free")
    advance(optimizer, params, 3)
    assert {n for n, p in params.items() if "exp_avg" in optimizer.state[p]} == {"a.0.weight", "a.1.weight"}
    assert {n for n, p in params.items() if p.detach().equal(before[n])} == {"a.1.norm"}


def test_bad_options():
    with pytest.raises(HybridOptError, match=r"lion: betas\[1\]=1.0"):
        optimize(tensors(), policy="lion", betas=(0.9, 1.0))
