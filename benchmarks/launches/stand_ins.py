"""What of hybridopt must be replaced for tensors without memory; everything else runs as it is."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor

from hybridopt.core.numerics import direction_kernels, host
from hybridopt.execution import dispatch, update_task
from hybridopt.execution.backends import _compiled_kernels, _triton_kernels, triton, triton_rounds
from hybridopt.optimizer import parameters
from hybridopt.optimizer.probing import perturb, watch

from .fake_cuda import FakeCuda

__all__ = ["stand_ins", "without_memory"]


@contextmanager
def without_memory() -> Iterator[None]:
    """Let hybridopt run on tensors without memory: they count as plain, nothing is pinned, no address is looked at."""
    with ExitStack() as stack:
        for where, name, value in (
            (update_task, "PLAIN", (*update_task.PLAIN, FakeTensor)),
            (host, "_pinned", lambda x: x),
            (parameters, "is_in_torch_dispatch_mode", lambda include_infra_modes: False),
            (watch, "_place", lambda x: None),
        ):
            stack.enter_context(patch.object(where, name, value))
        yield


@contextmanager
def stand_ins(mode: FakeCuda) -> Iterator[None]:
    """Let hybridopt run on the tensors of a mode, and nothing be compiled."""
    launched: Callable = mode.compiled(lambda launches, given: None)
    with ExitStack() as stack:
        stack.callback(dispatch.able.cache_clear)  # which backends work on a device: found anew, then and now
        stack.enter_context(without_memory())
        for where, name, value in (
            (_compiled_kernels, "_compile", mode.compiled),
            (direction_kernels, "_compile", mode.compiled),
            (_triton_kernels, "installed", lambda planned: True),
            (_triton_kernels, "made", lambda layout, title: defaultdict(lambda: None)),
            (_triton_kernels, "call", launched),
            (triton.Triton, "devices", frozenset({mode.kind})),
            (triton_rounds.TritonRounds, "devices", frozenset({mode.kind})),
            (perturb.Perturbation, "_check", lambda *_: None),  # weights on "meta" have no values
            (torch._dynamo, "mark_dynamic", lambda *_: None),
        ):
            stack.enter_context(patch.object(where, name, value))
        dispatch.able.cache_clear()
        yield
