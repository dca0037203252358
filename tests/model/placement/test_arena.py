"""Tensors one after the other in exact memory."""

import copy
import io
import mmap

import pytest
import torch

from hybridopt.core.errors import HybridOptError
from hybridopt.model.placement.lanes.host import HostLane
from hybridopt.model.placement.storage import arena
from hybridopt.model.placement.storage.arena import Arena, Layout

TENSORS = [
    torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    torch.arange(300, dtype=torch.uint8),
    torch.arange(12, dtype=torch.float32).view(3, 4).t(),
    torch.arange(8, dtype=torch.int8)[::2],
    torch.empty(0, 3),
]


def test_both_sides_have_the_same_bytes_at_the_same_places():
    layout = Layout(TENSORS)
    assert layout.offsets == [0, 256, 768, 1024, 1280] and layout.nbytes == 1280
    there = Arena(layout.nbytes, HostLane())
    assert there.size == mmap.PAGESIZE
    for to, x in zip(layout.tensors(there), TENSORS, strict=True):
        to.copy_(x)
    device = there.bytes[: layout.nbytes].clone()
    for x, near in zip(TENSORS, layout.views(device), strict=True):
        assert torch.equal(near, x) and near.dtype == x.dtype
        assert near.stride() == torch.empty_like(x).stride()
        assert near.untyped_storage().data_ptr() == device.data_ptr()


def test_a_tensor_at_rest_is_copied_and_saved_alone():
    layout = Layout(TENSORS)
    first = layout.tensors(Arena(1 << 20, HostLane()))[0]
    assert copy.deepcopy(first).untyped_storage().nbytes() == first.nbytes
    file = io.BytesIO()
    torch.save(first, file)
    assert file.tell() < 4096


def test_a_host_without_memory_is_told_of(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(arena, "_Memory", refuse)
    with pytest.raises(HybridOptError, match=r"no 1\.00 GiB left .*Cannot allocate.* placement='disk'"):
        Arena(2**30, HostLane())
