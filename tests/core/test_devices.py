"""Devices are known by name, and their free memory counts what torch keeps for itself."""

import pytest
import torch

from hybridopt import HybridOptError
from hybridopt.core.devices import device_named, free_bytes


def test_the_cpu_is_there():
    assert device_named("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:77", "tpu", "", "meta", "hpu", "mps", "CPU", "cuda:-1"])
def test_what_is_not_there_is_refused_in_one_line(name):
    with pytest.raises(HybridOptError, match=f"device='{name}' cannot be used here .*; give cpu, or cuda") as caught:
        device_named(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_a_torch_without_cuda_is_told_of_with_what_to_install(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        HybridOptError, match=r"built without CUDA\); .* and a torch for it: pip install .*--index-url"
    ):
        device_named("cuda")


def test_what_torch_keeps_without_need_is_free(monkeypatch):
    for name, value in {"mem_get_info": (500, 900), "memory_reserved": 70, "memory_allocated": 30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_bytes(torch.device("cuda", 0)) == 540
