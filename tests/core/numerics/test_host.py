"""Numbers on their way to a device: the same values, and no wait where the device runs behind."""

import pytest
import torch

from hybridopt.core.contracts import Draw
from hybridopt.core.numerics import host
from hybridopt.parts import Columns, RandK, Rows

SHAPE = (8, 12)


def sampled(split):
    """What a split keeps of its first window."""
    draw = Draw(0, "w")
    part = split.at(draw, SHAPE)
    state = {name: torch.zeros(slot.shape, dtype=slot.dtype) for name, slot in part.slots(SHAPE).items()}
    part.sample(torch.zeros(SHAPE), state, draw)
    return state


@pytest.mark.parametrize("split", [Columns(0.25), Rows(0.25), RandK(0.25)], ids=str)
def test_windows_are_opened_without_a_wait(split, monkeypatch):
    """Choices of the host are copied from pinned memory, non_blocking, and are those that a CPU gets."""
    here, copies, copy_ = sampled(split), [], torch.Tensor.copy_
    monkeypatch.setattr(host, "on_host", lambda device: False)
    monkeypatch.setattr(host, "_pinned", lambda x: x.clone())
    monkeypatch.setattr(torch.Tensor, "copy_", lambda x, y, **told: copies.append(told) or copy_(x, y, **told))
    away = sampled(split)
    assert copies == [{"non_blocking": True}]
    assert all(x.equal(away[name]) and x.count_nonzero() for name, x in here.items())
