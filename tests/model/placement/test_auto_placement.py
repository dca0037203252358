"""Placements settled by what weights take and what memory there is."""

import pytest
import torch

from hybridopt.core.errors import HybridOptError
from hybridopt.model.placement import auto_placement
from hybridopt.model.placement.auto_placement import TRAINING, LayerBytes, settled
from hybridopt.model.placement.placement import Placement

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
AUTO = Placement("auto")
GIB = 2**30
LAYERS = LayerBytes([GIB] * 10, near=2 * GIB, on_host=GIB)


def test_auto_keeps_everything_near_where_that_leaves_room_to_train():
    for_weights = budget_of(12 * GIB)
    assert settled(AUTO, LAYERS, CUDA, for_weights, 64 * GIB).base == "device"
    assert settled(AUTO, LAYERS, CUDA, for_weights - GIB, 64 * GIB) == AUTO.but(base="host", resident=6)


def test_auto_takes_as_many_resident_layers_as_fit():
    for held in range(6, 12):
        found = settled(AUTO, LAYERS, CUDA, budget_of(held * GIB), 64 * GIB)
        assert found == AUTO.but(base="host", resident=held - 2 - 3)
        assert LAYERS.on_device(found) == held * GIB


def test_auto_takes_fewer_slots_before_it_gives_up():
    assert settled(AUTO, LAYERS, CUDA, budget_of(4 * GIB), 64 * GIB) == AUTO.but(base="host", slots=2)
    with pytest.raises(HybridOptError, match=r"25% .*1\.50 GiB are missing in memory=3\.33 GiB"):
        settled(AUTO, LAYERS, CUDA, budget_of(int(2.5 * GIB)), 64 * GIB)


def test_auto_goes_to_disk_where_the_host_is_too_small():
    found = settled(AUTO, LAYERS, CUDA, budget_of(6 * GIB), 8 * GIB)
    assert found == AUTO.but(base="disk", resident=1)
    with pytest.raises(HybridOptError, match="host_memory"):
        settled(AUTO, LayerBytes([GIB] * 10, disk=False), CUDA, budget_of(6 * GIB), 4 * GIB)


def test_the_cpu_has_the_memory_of_the_host():
    assert settled(AUTO, LAYERS, CPU, None, budget_of(13 * GIB, kept=0)).base == "device"
    found = settled(AUTO, LAYERS, CPU, "64GiB", budget_of(9 * GIB, kept=0))
    assert (found.base, found.resident) == ("disk", 4)


@pytest.mark.parametrize(
    ("memory", "host", "words"),
    [
        ("64GiB", "4GiB", r"1\.00 GiB are missing in host_memory=4\.00 GiB; take fewer resident layers"),
        (None, "4GiB", r"1\.00 GiB are missing in host_memory=4\.00 GiB"),
        ("4GiB", "64GiB", r"missing in memory=3\.\d\d GiB"),
    ],
)
def test_what_is_missing_on_the_cpu_is_said_of_the_limit_that_was_given(memory, host, words):
    with pytest.raises(HybridOptError, match=words):
        settled(Placement("disk"), LAYERS, CPU, memory, host)


def test_values_of_a_placement_that_are_wrong_are_refused_at_once():
    for wrong in ({"cache": 3}, {"cache": ""}, {"cache": b"layers"}, {"keep_cached": "no"}, {"keep_cached": 1}):
        with pytest.raises(HybridOptError, match=next(iter(wrong))):
            Placement("disk", **wrong)


def test_what_is_not_told_is_asked_of_the_machine(monkeypatch):
    monkeypatch.setattr(auto_placement, "left", lambda root: 64 * GIB)
    monkeypatch.setattr(auto_placement, "free_bytes", lambda device: budget_of(8 * GIB))
    assert settled(AUTO, LAYERS, CUDA) == AUTO.but(base="host", resident=3)
    monkeypatch.setattr(auto_placement, "left", lambda root: None)  # a system that does not tell: nothing is refused
    assert settled(AUTO, LAYERS, CPU).base == "device"


def test_layers_of_different_sizes_count_by_the_largest():
    uneven = LayerBytes([GIB, 4 * GIB, GIB, 2 * GIB])
    assert uneven.on_device(Placement("host", slots=2)) == 6 * GIB
    assert uneven.on_device(Placement("host", slots=2, resident=2)) == 8 * GIB
    assert uneven.beside(Placement("host", resident=2)) == 3 * GIB
    assert uneven.beside(Placement("disk", slots=2)) == 8 * GIB


@pytest.mark.parametrize(
    ("placement", "memory", "host", "words"),
    [
        (Placement("host", resident=10), "64GiB", "64GiB", "resident=10 .* at most 9"),
        (Placement("host", resident=4), "8GiB", "64GiB", r"slots=3 and resident=4 .*1\.3\d GiB are missing in memory"),
        (Placement("host"), "8GiB", "10GiB", r"1\.00 GiB are missing in host_memory=10\.00 GiB; .*disk"),
        (Placement("disk"), "80GiB", "2GiB", "1.00 GiB are missing in host_memory"),
        (Placement("host"), "8", "10GiB", "unit"),
        (Placement("host"), "8GiB", "10", "host_memory"),
        (Placement("host"), "8GiB", -1, "host_memory=-1 is not allowed"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_missing_bytes(placement, memory, host, words):
    with pytest.raises(HybridOptError, match=words):
        settled(placement, LAYERS, CUDA, memory, host)


def budget_of(weights: int, kept: float = 0.04) -> int:
    """Return the memory in which weights of so many bytes leave the share that is training's."""
    return int(weights / (1 - TRAINING) / (1 - kept)) + 16
