"""The way to a GPU: a stream of its own for copies, events between it and the stream that computes, page locks.

All that is known of CUDA in placement is here. Copies run while layers are computed if their source is page-locked.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from .lane import Lane, Moment, Pair

__all__ = ["CudaLane"]


class _Moment(NamedTuple):
    stream: torch.cuda.Stream
    event: torch.cuda.Event


class CudaLane(Lane):
    """Copies on a side stream.

    torch's allocator hands memory that is given back on a stream to whoever next asks on that stream, at once: the
    order of the stream is what keeps the two apart. As memory is taken on a stream that computes, and that stream
    waits for every copy, and for all other streams that used it, before memory is given back, `Tensor.record_stream`
    is not needed (it would delay reuse until an event is seen to be over, and peaks would depend on timing).

    Args:
        device: a GPU.
    """

    forked = False  # a forked process cannot use CUDA anyway

    def __init__(self, device: torch.device):
        index = torch.cuda.current_device() if device.index is None else device.index
        self._device = torch.device("cuda", index)  # "cuda" alone would be another one in other threads
        self._side = torch.cuda.Stream(self._device)
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def here(self) -> torch.cuda.Stream:
        """Return the stream of the calling thread."""
        return torch.cuda.current_stream(self._device)

    def now(self) -> Moment:
        """Return an event that is recorded in the stream of the calling thread."""
        return self._recorded(torch.cuda.current_stream(self._device))

    def copy(self, pairs: Sequence[Pair], after: Moment) -> Moment:
        """Copy on the side stream; from memory that is not page-locked the call returns once that was read."""
        # the device first: the stream alone would switch back to the current one, and so take memory there
        with torch.cuda.device(self._device), torch.cuda.stream(self._side):
            self._side.wait_event(after.event)
            for to, source in pairs:
                to.copy_(source, non_blocking=True)
            return self._recorded(self._side)

    def wait(self, moment: Moment | None) -> None:
        """Let the stream of the calling thread wait for an event, or for all of the side stream."""
        moment = self._recorded(self._side) if moment is None else moment
        stream = torch.cuda.current_stream(self._device)
        before = self._recorded(stream).event if self.timed else None
        stream.wait_event(moment.event)
        if before is not None:
            self._waits.append((before, self._recorded(stream).event))

    def leave(self, taken: Moment, users: Iterable[torch.cuda.Stream]) -> None:
        """Let the stream on which memory was taken wait for all others on which it was used."""
        for stream in users:
            if stream != taken.stream:
                taken.stream.wait_event(self._recorded(stream).event)

    def finish(self, moment: Moment) -> None:
        """Wait for an event."""
        moment.event.synchronize()

    def pin(self, memory: Tensor) -> bool:
        """Page-lock memory; a refusal leaves no error behind for whoever uses the GPU next."""
        with torch.cuda.device(self._device):
            code = torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
            if int(code) == 0:
                return True
            with suppress(RuntimeError):  # CUDA tells of its last error once more, at the next launch: this one
                torch.empty(1, device=self._device).fill_(0)
        return False

    def unpin(self, address: int) -> None:
        """Give the page lock up, unless CUDA itself is gone."""
        with suppress(RuntimeError, AttributeError, TypeError):  # the interpreter may be on its way out
            self._side.synchronize()  # copies that nobody waits for any more may still read it
            with torch.cuda.device(self._device):
                torch.cuda.cudart().cudaHostUnregister(address)

    def stalled(self) -> float:
        """Return the seconds between events around the waits since the last call."""
        waits, self._waits = self._waits, []
        for _, after in waits[-1:]:
            after.synchronize()
        return sum(before.elapsed_time(after) for before, after in waits) / 1e3

    def _recorded(self, stream: torch.cuda.Stream) -> _Moment:
        event = torch.cuda.Event(enable_timing=self.timed)
        event.record(stream)
        return _Moment(stream, event)
