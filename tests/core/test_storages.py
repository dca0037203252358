"""Tensors that share memory are known as such, whatever stands behind their addresses."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hybridopt.core.storages import same_storage, storage_id


def test_views_lie_in_the_memory_of_their_base():
    x = torch.zeros(4, 2)
    assert same_storage(x, x[1:].T) and same_storage(x, x.detach()) and not same_storage(x, x.clone())
    assert storage_id(x) == storage_id(x.untyped_storage()) == storage_id(x.untyped_storage())


def test_memory_without_addresses_is_told_apart():
    with FakeTensorMode():
        fakes = torch.zeros(2), torch.zeros(2)
    for one, other in (fakes, (torch.zeros(2, device="meta"), torch.zeros(2, device="meta")), (torch.zeros(0),) * 2):
        assert same_storage(one, one.view(-1))
        assert same_storage(one, other) == (one is other)
