"""Updates of replicas within the backward pass: each as soon as DDP has averaged the bucket of its gradient."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd import Variable

from ...core.collective_errors import meeting
from ..saved_for_backward import held_at_rest, still_read

__all__ = ["Buckets"]

SETTLED = 4  # passes after which torch remembers no more of buckets than before


@dataclass(eq=False)
class _Bucket:
    """Gradients on their way.

    Args:
        coming: torch's Work or Future of the sum.
        buffer: of all gradients, flat.
        pairs: parameters with their gradients, views of the buffer.
        used: of each, whether any rank has a gradient for it.
        spare: may the buffer's memory be given back until the next pass?
    """

    coming: Any
    buffer: Tensor
    pairs: list[tuple[Tensor, Tensor]]
    used: Sequence[bool]
    spare: bool


class Buckets:
    """The communication hook of a DDP module, with which gradients take no more memory than some buckets.

    While a bucket is averaged the backward pass goes on; when the next one is complete, parameters of the first are
    updated, and its memory is given back until a gradient for it comes in the next pass.

    Args:
        hand: called with a parameter, whose average is in `.grad`, and whether somebody still reads the weight.
        mine: the parameters that it may be called with.
        alone: use counts of all parameters without DDP's reducer, by their ids.
    """

    def __init__(self, hand: Callable[[Tensor, bool], None], mine: Sequence[Tensor], alone: dict[int, int]):
        self._hand, self._mine, self._without = hand, {id(p) for p in mine}, alone
        self._waiting: deque[_Bucket] = deque()
        self._lent: dict[int, tuple[Any, int]] = {}  # what was given back, and its bytes
        self._arrived: set[int] = set()
        self._read: set[int] = set()
        self._running = False
        self._error: Exception | None = None
        self.averaged: set[int] = set()  # ids of parameters whose gradients were averaged in this step

    def begin(self, ddp: Any, params: Sequence[Tensor], spare: bool) -> None:
        """Watch the parameters of a reducer that was made with `hook`.

        Args:
            ddp: the DDP module.
            params: what it averages.
            spare: does every parameter get a gradient in every pass? Then memory can be given back between passes.
        """
        self._spare, self._group, self._theirs = spare, ddp.process_group, list(ddp._comm_hooks)
        self._share, self._rebuilt = 1.0 / self._group.size(), spare or ddp.static_graph
        self._params, self._passes = list(params), 0
        self._beside = {id(p): held_at_rest(p) - self._without[id(p)] for p in params}
        self._later = dict.fromkeys(self._beside, 0)
        self._on = [p.register_post_accumulate_grad_hook(self._arrive) for p in params]

    def end(self) -> None:
        """Leave the parameters alone; the memory is as DDP expects it."""
        for hook in self._on:
            hook.remove()
        for storage, size in self._lent.values():
            _lend(storage, size)
        self._lent.clear()

    def has(self, p: Tensor) -> bool:
        """Return whether a parameter is updated when it has been averaged."""
        return id(p) in self._mine

    # ---- one backward pass

    def _arrive(self, p):
        """Get ready for a gradient that DDP copies to its bucket next."""
        self._arrived.add(id(p))
        self.averaged.discard(id(p))  # until this gradient is averaged, too
        if id(p) in self._lent:
            _lend(*self._lent[id(p)])
        if still_read(p, self._beside[id(p)] + self._later[id(p)]):
            self._read.add(id(p))

    def reduce(self, bucket: Any) -> Any:
        """Begin to average a bucket, and use those before it; return a Future that is done."""
        one = self._begun(bucket)
        result = torch.empty_like(one.buffer, device="meta") if one.spare else one.buffer
        if torch._C._current_graph_task_id() < 0:  # a rank without data lends a hand to others: torch's join()
            one.coming.wait()
        else:
            for (p, _), used in zip(one.pairs, one.used, strict=True):
                p.grad = None if used else p.grad  # the bucket has it
            self._waiting.append(one)
            if not self._running:
                self._running = True
                Variable._execution_engine.queue_callback(self._finish)
            while len(self._waiting) > 1:
                self._use(self._waiting.popleft())
        done: Any = torch.futures.Future()
        done.set_result(result)
        return done

    def _begun(self, bucket):
        buffer, params = bucket.buffer(), bucket.parameters()
        spare = self._spare and self._mine.issuperset(map(id, params)) and torch._C._current_graph_task_id() >= 0
        used = [True] * len(params) if self._spare else self._used(params, buffer.device)
        with meeting("average gradients"):
            if self._theirs:
                hook, state = self._theirs[-1]
                coming = hook(state, bucket)
            else:
                buffer.mul_(self._share)
                coming = distributed.all_reduce(buffer, group=self._group, async_op=True)
        return _Bucket(coming, buffer, list(zip(params, bucket.gradients(), strict=True)), used, spare)

    def _used(self, params, device):
        """Return for every parameter whether any rank has a gradient for it."""
        mine = torch.tensor([id(p) in self._arrived for p in params], dtype=torch.int32, device=device)
        with meeting("say which parameters have gradients"):
            distributed.all_reduce(mine, distributed.ReduceOp.MAX, group=self._group)
        return [bool(x) for x in mine.tolist()]

    def _use(self, one):
        with meeting("average gradients"):
            one.coming.wait()
            if self._theirs:
                found = one.coming.value()
                found = found[0] if isinstance(found, list) else found
                if found.data_ptr() != one.buffer.data_ptr():
                    one.buffer.copy_(found)
        for (p, grad), used in zip(one.pairs, one.used, strict=True):
            if used:
                self._give(p, grad)
        if one.spare:
            storage = one.buffer.untyped_storage()
            for p, _ in one.pairs:
                self._lent[id(p)] = storage, storage.nbytes()
            one.pairs.clear()
            storage.resize_(0)

    def _give(self, p, grad):
        """Hand a gradient over, in memory of its own: it may be kept, and kernels see it as they see any other."""
        p.grad = grad.clone()
        self.averaged.add(id(p))
        if self.has(p):
            try:
                if self._error is None:
                    self._hand(p, id(p) in self._read)
                else:
                    p.grad = None
            except Exception as error:  # the others wait for this rank in the buckets that follow
                self._error, p.grad = error, None

    def _finish(self):
        """Use what is left when the backward pass ends; raise, after DDP has ended it too, what went wrong."""
        self._running = False
        while self._waiting:
            self._use(self._waiting.popleft())
        self._arrived.clear()
        self._read.clear()
        Variable._execution_engine.queue_callback(self._ended)

    def _ended(self):
        """See whether torch refers to parameters once more, as it does to those of buckets that are made for good."""
        self._passes += 1
        if self._passes <= SETTLED and self._rebuilt:
            for p in self._params:
                more = held_at_rest(p) - self._without[id(p)] - self._beside[id(p)]
                self._later[id(p)] = max(self._later[id(p)], min(more, 1))
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _lend(storage, size):
    if not storage.nbytes():
        storage.resize_(size)
