"""Bytes of tensors are counted once each, within subclasses too, and at the moment when most are there."""

import pytest
import torch

from benchmarks.shared.peak import Peak, highest
from benchmarks.shared.tensor_bytes import held, tensors


def test_held_counts_each_storage_once_and_no_weights():
    weight, state = torch.zeros(10), torch.zeros(6)
    keeper = {"a": [state, state[2:]], "b": (weight.view(2, 5),), "self": None}
    keeper["self"] = keeper
    assert held(keeper, [weight]) == 24
    assert held(keeper) == 64


def test_held_looks_into_tensor_subclasses():
    pytest.importorskip("torchao")
    from torchao.optim.subclass_8bit import OptimState8bit

    state = OptimState8bit.zeros((4096,))
    inside = list(tensors([state]))
    assert {t.dtype for t in inside} == {torch.uint8, torch.float32} and 4096 < held(state) < 6000


def test_peak_is_the_most_that_was_there_at_once():
    x = torch.ones(10_000)
    with Peak("cpu") as peak:
        y = x + 1
        z = y + 1
        del y
        z = z + 1
        del z
    assert 80_000 <= peak.extra < 80_100  # the numbers 1 are tensors too
    assert highest([5, -5, 3, 4, -2]) == 7
