"""The order of what is asked of a GPU, seen on streams that only remember."""

import re
import sys
from pathlib import Path

import pytest
import torch

from hybridopt.model.placement.arena import Arena
from hybridopt.model.placement.backends.staged import Staged
from hybridopt.model.placement.lanes.cuda import CudaLane
from hybridopt.model.placement.lanes.host import HostLane
from hybridopt.model.placement.sides import Sides
from support.fake_streams import Fake, Stream, before
from support.placed import adapted, model_at, stand_in, train


class OnCuda(Staged):
    """The backend with the lane of GPUs, whose tensors are on the CPU."""

    def __init__(self, device, traffic, options):
        super().__init__(device, traffic, options)
        self.lane = CudaLane(torch.device("cuda"))


@pytest.fixture
def cuda(monkeypatch):
    return Fake(monkeypatch)


@pytest.fixture
def visits(cuda, monkeypatch):
    """What a training has asked for: of every fetch where memory was taken, copied to, used, and given back."""
    for method, word in (("fill", "take"), ("empty", "give")):
        monkeypatch.setattr(Sides, method, saying(cuda, word, getattr(Sides, method)))
    model = model_at("resident")
    found = stand_in(model, slots=2, backend=OnCuda)
    model = adapted(model)
    for unit in found.units:
        memory = found.streamer.backend._sides[unit].memory.untyped_storage()._cdata
        unit.module.register_forward_pre_hook(lambda m, args, x=memory: cuda.say("use", x))
        for p in unit.module.parameters():
            if p.requires_grad:
                p.register_hook(lambda g, x=memory: cuda.say("use", x))
    train(model, 2)
    found.rest()
    every = []
    for unit in found.units:
        memory = found.streamer.backend._sides[unit].memory.untyped_storage()._cdata
        taken, copied, given = (cuda.places(word, memory) for word in ("take", "copy", "give"))
        for start, copy, end in zip(taken, copied, given[1:], strict=True):  # first when it is adopted
            used = [place for place in cuda.places("use", memory) if start[1] < place[1] < end[1]]
            every.append((start, copy, used, end))
    assert len(every) == found.traffic.fetches
    return every


def test_copies_come_after_their_memory_and_before_its_use(cuda, visits):
    for taken, copy, used, _ in visits:
        assert copy[0] is cuda.streams[0]
        assert before(taken, copy)  # and so is all that had the memory before
        assert not before(copy, taken)
        assert all(before(copy, use) for use in used)
    assert sum(len(used) for _, _, used, _ in visits) == 4 * 2 * (1 + 7 * 2)


def test_memory_is_given_back_after_its_copy_and_on_the_stream_of_its_use(cuda, visits):
    for _, copy, used, given in visits:
        assert before(copy, given)
        assert given[0] is cuda.main and all(use[0] is cuda.main for use in used)


def test_who_gives_back_on_another_stream_lets_the_first_one_wait(cuda):
    lane = CudaLane(torch.device("cuda"))
    taken, other = lane.now(), Stream("other")
    with cuda.stream(other):
        cuda.say("use", 1)
        lane.leave(taken)
    cuda.say("take", 2)
    assert before((other, 0), (cuda.main, len(cuda.main.asked) - 1))
    asked = len(cuda.main.asked)
    lane.leave(lane.now())
    assert len(cuda.main.asked) == asked + 1  # on its own stream nothing need be waited for


def test_a_refused_page_lock_leaves_no_error_behind(monkeypatch):
    cuda = Fake(monkeypatch, refuses=True)

    def empty(*args, **kwargs):
        cuda.error, told = False, cuda.error
        if told:
            raise RuntimeError("CUDA error: out of memory")

    lane, memory = CudaLane(torch.device("cuda")), torch.zeros(8)
    monkeypatch.setattr(torch, "empty", empty)
    assert not lane.pin(memory)
    assert not cuda.error


def test_page_locks_last_as_long_as_the_memory(cuda):
    arena = Arena(100, CudaLane(torch.device("cuda")))
    address, part = arena.bytes.data_ptr(), arena.bytes[:3]
    assert arena.pinned and cuda.locked == {address}
    del arena
    assert cuda.locked == {address}
    del part
    assert not cuda.locked
    assert ("synchronize", None) in cuda.streams[0].asked  # what was copied from it was copied before


@pytest.mark.skipif(sys.platform != "linux", reason="flags of memory are Linux'")
def test_page_locked_memory_is_not_there_in_forked_processes(cuda):
    locked, plain = Arena(1 << 20, CudaLane(torch.device("cuda"))), Arena(1 << 20, HostLane())
    assert locked.pinned and "dc" in _flags(locked.bytes.data_ptr())
    assert "dc" not in _flags(plain.bytes.data_ptr())


def _flags(address):
    """Return what the system notes of the memory at an address: "dc" where a fork does not copy it."""
    for each in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]:
        start, end = (int(x, 16) for x in each.split()[0].split("-"))
        if start <= address < end:
            return re.search(r"VmFlags: (.*)", each)[1].split()
    raise AssertionError(f"nothing is at {address:x}")


def test_stalls_are_timed_where_that_is_asked_for(cuda):
    lane = CudaLane(torch.device("cuda"))
    lane.timed = True
    for _ in range(3):
        lane.wait(lane.now())
    assert lane.stalled() == pytest.approx(0.003)
    assert lane.stalled() == 0


def saying(cuda, word, method):
    def said(sides, *args):
        cuda.say(word, sides.memory.untyped_storage()._cdata)
        return method(sides, *args)

    return said
