"""The order of what is asked of a GPU, seen on streams that only remember."""

import re
import sys
import threading
from pathlib import Path

import pytest
import torch

from hybridopt.core.storages import storage_id
from hybridopt.model.placement.backends.staged import Staged
from hybridopt.model.placement.lanes.cuda import CudaLane
from hybridopt.model.placement.lanes.host import HostLane
from hybridopt.model.placement.storage.arena import Arena
from hybridopt.model.placement.streaming.sides import Sides
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
        memory = storage_id(found.streamer.backend._sides[unit].memory)
        unit.module.register_forward_pre_hook(lambda m, args, x=memory: cuda.say("use", x))
        for p in unit.module.parameters():
            if p.requires_grad:
                p.register_hook(lambda g, x=memory: cuda.say("use", x))
    train(model, 2)
    found.rest()
    every = []
    for unit in found.units:
        memory = storage_id(found.streamer.backend._sides[unit].memory)
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


def test_whoever_copies_leaves_the_current_device_alone(cuda, monkeypatch):
    """A stream that is left switches back to the current device, on which CUDA then takes memory for itself."""
    lane, seen = CudaLane(torch.device("cuda")), []
    monkeypatch.setattr(torch.cuda, "stream", lambda side: seen.append(cuda.guarded) or cuda.stream(side))
    lane.copy([], lane.now())
    assert seen == [True] and not cuda.guarded


def test_who_gives_back_on_another_stream_lets_the_first_one_wait(cuda):
    lane = CudaLane(torch.device("cuda"))
    taken, other = lane.now(), Stream("other")
    with cuda.stream(other):
        cuda.say("use", 1)
        lane.leave(taken, {cuda.main, other})
    cuda.say("take", 2)
    assert before((other, 0), (cuda.main, len(cuda.main.asked) - 1))
    asked = len(cuda.main.asked)
    lane.leave(lane.now(), {cuda.main})
    assert len(cuda.main.asked) == asked + 1  # on its own stream nothing need be waited for


@pytest.fixture
def several(cuda, monkeypatch):
    """A placed model whose layers all stay near, the streams of two who compute with it, and what to say of a use."""
    for method, word in (("fill", "take"), ("empty", "give")):
        monkeypatch.setattr(Sides, method, saying(cuda, word, getattr(Sides, method)))
    found = stand_in(model_at("resident").eval(), slots=4, backend=OnCuda)
    cuda.streams += [Stream("one"), Stream("two")]

    def use(stream, unit):
        with cuda.stream(stream):
            found.streamer.need(unit)
            cuda.say("use", storage(unit))
            found.streamer.done(unit)

    def storage(unit):
        return storage_id(found.streamer.backend._sides[unit].memory)

    return found, cuda.streams[-2], cuda.streams[-1], use, storage


@pytest.mark.parametrize("threads", [False, True], ids=["in turns", "in threads"])
def test_whoever_uses_what_another_stream_has_brought_near_waits_for_its_copy(cuda, several, threads):
    found, one, two, use, storage = several

    def passes(stream):
        for unit in found.units:
            use(stream, unit)

    for stream in (one, two, one):
        who = threading.Thread(target=passes, args=(stream,)) if threads else None
        who.start() or who.join() if who else passes(stream)
    for unit in found.units:
        (copy,) = cuda.places("copy", storage(unit))
        used = cuda.places("use", storage(unit))
        assert [stream for stream, _ in used] == [one, one, two]
        assert all(before(copy, each) for each in used)


def test_memory_that_several_streams_have_used_is_given_back_after_all_of_them(cuda, several):
    found, one, two, use, storage = several
    for stream in (one, two):
        for unit in found.units:
            use(stream, unit)
    found.rest()  # by who has used nothing
    cuda.say("take", 0)
    for unit in found.units:
        taken = cuda.places("take", storage(unit))[-1]
        again = taken[0], len(taken[0].asked)  # whoever is given that memory next, in the order of its stream
        assert all(before(each, again) for each in cuda.places("use", storage(unit)))


def test_updates_made_on_one_stream_are_waited_for_on_another(cuda, several):
    found, one, two, use, storage = several
    first, piece = found.units[0], found.units[0].pieces[0]
    for stream in (one, two):
        use(stream, first)
    found.streamer.outstanding.note(first, piece, lambda: cuda.say("update", storage(first)), step=0)
    for stream in (two, one):
        use(stream, first)
    (update,) = cuda.places("update", storage(first))
    assert update[0] is two
    last = [place for place in cuda.places("use", storage(first)) if place[0] is one][-1]
    assert before(update, last)
    with cuda.stream(two):
        found.streamer.replace(first, piece, piece.tensor.data.clone())
        cuda.say("written", storage(first))
    use(one, first)
    last = [place for place in cuda.places("use", storage(first)) if place[0] is one][-1]
    assert cuda.places("event")  # of what was written
    assert before((two, cuda.places("written", storage(first))[0][1] - 2), last)


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
        cuda.say(word, storage_id(sides.memory))
        return method(sides, *args)

    return said
