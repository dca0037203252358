"""CUDA's streams and events without CUDA: what was asked of which stream, and what is sure to come before what."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from hybridopt.core.storages import storage_id


@dataclass(eq=False)
class Stream:
    """What was asked of a stream, in order: pairs of a word and what it is about."""

    name: str
    asked: list[tuple[str, object]] = field(default_factory=list)

    def wait_event(self, event):
        self.asked.append(("wait", event))

    def synchronize(self):
        self.asked.append(("synchronize", None))

    def record_event(self):
        event = Event()
        event.record(self)
        return event


class Event:
    """A place in a stream."""

    def __init__(self, enable_timing=False):
        self.timing = enable_timing
        self.place = None

    def record(self, stream):
        self.place = stream, len(stream.asked)
        stream.asked.append(("event", self))

    def synchronize(self):
        assert self.place is not None

    def elapsed_time(self, other):
        assert self.timing and other.timing
        return 1.0


class Fake:
    """Stands in for `torch.cuda` where that is patched; copies of bytes that wait for nothing are noted.

    Args:
        monkeypatch: pytest's.
        refuses: refuse page locks, and leave an error behind that the next launch raises?
    """

    def __init__(self, monkeypatch, refuses=False):
        self.main, self.streams = Stream("main"), []
        self._now = threading.local()
        self.refuses, self.error, self.locked = refuses, False, set()
        for name in ("Stream", "Event", "current_stream", "stream", "device", "cudart", "current_device"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        copy_ = torch.Tensor.copy_

        def noted(to, source, non_blocking=False):
            if non_blocking:
                self.say("copy", storage_id(to))
            return copy_(to, source)

        monkeypatch.setattr(torch.Tensor, "copy_", noted)

    Event = Event

    def Stream(self, device):  # noqa: N802  # torch's name
        assert device == torch.device("cuda", 1)
        self.streams.append(Stream(f"side {len(self.streams)}"))
        return self.streams[-1]

    def current_stream(self, device=None):
        assert device in (None, torch.device("cuda", 1))
        return getattr(self._now, "stream", self.main)

    @contextmanager
    def stream(self, stream):
        before = self.current_stream()
        self._now.stream = stream
        yield
        self._now.stream = before

    def current_device(self):
        return 1

    @contextmanager
    def device(self, device):
        assert device == torch.device("cuda", 1)
        before, self._now.guarded = self.guarded, True
        yield
        self._now.guarded = before

    @property
    def guarded(self):
        """Is the current device that of all streams?"""
        return getattr(self._now, "guarded", False)

    def cudart(self):
        return self

    def cudaHostRegister(self, address, size, flags):  # noqa: N802  # CUDA's name
        assert self.guarded
        self.error = self.refuses
        if not self.refuses:
            self.locked.add(address)
        return 2 if self.refuses else 0

    def cudaHostUnregister(self, address):  # noqa: N802  # CUDA's name
        assert self.guarded
        self.locked.remove(address)

    def say(self, word, about):
        self.current_stream().asked.append((word, about))

    def places(self, word, about=None):
        """Where something was asked for: streams and positions."""
        found = []
        for stream in (self.main, *self.streams):
            found += [
                (stream, i) for i, (w, x) in enumerate(stream.asked) if w == word and (about is None or x == about)
            ]
        return found


def before(one, other):
    """Whether what was asked at a place is sure to be done before what was asked at another."""
    left, seen = [other], set()
    while left:
        stream, end = left.pop()
        if stream is one[0] and one[1] < end:
            return True
        for i in range(end):
            word, event = stream.asked[i]
            if word == "wait" and id(event) not in seen:
                seen.add(id(event))
                left.append((event.place[0], event.place[1] + 1))
    return False
