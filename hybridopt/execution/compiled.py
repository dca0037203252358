"""Updates compiled whole: one kernel for every combination of parts, for all shapes and all numbers."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..errors import HybridOptWarning
from ..rounding import Seed, tables
from ..state import basis, sliceable
from ..update import Now, apart, rounds, update, write_free_, write_low
from .slices import Slice, slices
from .task import Task

__all__ = ["SMALLEST", "fits", "run"]

SMALLEST = 1 << 16  # elements: below, a call costs more than what it saves
PIECE = 1 << 22  # elements of a slice, where a part of the parameter is copied out
BLOCKS = 1 << 18  # elements of a slice of state in blocks: what was decoded should stay in the cache
_kernels: dict[tuple, Callable] = {}
_broken: list[str] = []  # why nothing can be compiled here


def fits(task: Task) -> bool:
    """Is it large, in plain tensors, and not mainly matrix products, which gain nothing?"""
    plain = type(task.param) in (Tensor, torch.nn.Parameter) and not _broken
    return plain and task.param.numel() >= SMALLEST and _elementwise(task.job)


def run(task: Task) -> bool:
    """Carry out the task; False, with a warning and nothing changed, where there is no working compiler."""
    try:
        numbers = _Numbers(task)
        if apart(task.job):
            for piece in _pieces(task):
                chosen = numbers.call(write_low, task, piece)
                numbers.call(write_free_, task, piece)
                numbers.call(_put_, task, piece, chosen)
        else:
            for piece in _pieces(task):
                numbers.call(update, task, piece)
    except _failures() as error:
        _give_up(error)
        return False
    increment_version([task.param])
    return True


def _elementwise(job):
    rules = (job.treatment.full, job.treatment.free)
    subspace = not job.part.disjoint and job.part.slots(job.shape)
    return not subspace and not any(getattr(rule, "products", False) for rule in rules)


def _pieces(task):
    """Slices, where a whole would need temporaries of its size; one where a kernel needs none."""
    blocks = getattr(task.job.treatment.codec, "block", 0) and task.raw
    size = BLOCKS if blocks else PIECE
    if task.param.numel() <= size or not sliceable(task.job) or not (blocks or apart(task.job)) or rounds(task.job):
        return [Slice(task.param, task.grad, task.raw, {}, 0)]
    return [piece for _, cut in slices(task.param, task.grad, task.raw, task.job, task.key, size) for piece in cut]


def _put_(param, grad, raw, job, store, now, chosen):
    job.part.up_(param, chosen, basis(raw))


class _Numbers:
    """The numbers of a task as two vectors, so that no kernel depends on their values."""

    def __init__(self, task: Task):
        now, device = task.now(), task.param.device
        self.names = tuple(now.full), tuple(now.free), tuple(now.seeds)
        self.floats = _vector([now.lr, now.decay, *now.full.values(), *now.free.values()], task.job.arithmetic, device)
        self.keys = torch.tensor([now.key, *(seed.key for seed in now.seeds.values())], device=device)

    def call(self, function: Callable, task: Task, piece: Slice, *more: Tensor) -> Tensor | None:
        """Call `function` on a slice by its kernel."""
        raws = tuple(piece.raw.values())
        given = (piece.param, piece.grad, self.floats, self.keys, *_tables(task, piece), raws, more)
        kinds = tuple((x.dtype, x.ndim) for x in (piece.param, piece.grad, *raws, *more))
        ones = tuple(n == 1 for n in piece.param.shape)
        where = task.param.device, torch.get_num_threads()
        key = (function, _general(task.job), task.store, self.names, tuple(piece.raw), kinds, ones, where)
        if key in _kernels:
            return _kernels[key](*given)
        kernel = _compile(_on_vectors(function, task.job, task.store, self.names, tuple(piece.raw)), task.param.device)
        with _every_size_its_own():
            out = kernel(*given)
        _kernels[key] = kernel
        return out


def _on_vectors(function, job, store, names, raw_names):
    """`function` with its numbers in vectors and its state in a tuple."""
    full, free, seeds = names
    job.slots, job.elementwise  # noqa: B018  worked out now, not while it is traced

    def kernel(param, grad, floats, keys, rows, columns, raws, more):
        told, keys = floats[2:].unbind(), keys.unbind()
        now = Now(
            floats[0],
            floats[1],
            dict(zip(full, told[: len(full)], strict=True)),
            dict(zip(free, told[len(full) :], strict=True)),
            keys[0],
            {name: Seed(key, 0, (rows, columns)) for name, key in zip(seeds, keys[1:], strict=True)},
        )
        return function(param, grad, dict(zip(raw_names, raws, strict=True)), job, store, now, *more)

    return kernel


def _vector(numbers, dtype, device):
    if not any(isinstance(x, Tensor) for x in numbers):
        return torch.tensor(numbers, dtype=dtype, device=device)
    return torch.stack([torch.as_tensor(x, dtype=dtype, device=device) for x in numbers])


def _tables(task, piece):
    """Tables of random bits from the slice's first row on; one element where nothing is random."""
    if not (task.store.random or task.job.treatment.codec.random):
        return (torch.empty(2, dtype=torch.int32, device=task.param.device),) * 2
    first = piece.seeds[""].row if piece.seeds else 0
    rows, columns = tables(first + max(piece.param.shape) + piece.param.numel() // 16, piece.param.device)
    return rows[first:], columns


def _general(job):
    """What a kernel depends on: not the shape, nor numbers of a part that only follow from it."""
    sizes = getattr(job.part, "sizes", ())
    part = tuple(getattr(job.part, f.name) for f in fields(job.part) if f.name not in sizes)
    return job.treatment, type(job.part), part, job.arithmetic


def _compile(function, device):
    """A kernel of its own code object, so that kernels do not count as each other's recompilations.

    On a CPU without guards: `call` has checked everything already, and guards would cost more than small updates.
    """
    function.__code__ = function.__code__.replace(co_name=f"{function.__name__}_{len(_kernels)}")
    bare = {"guard_filter_fn": lambda guards: [False] * len(guards), "size_asserts": False}
    return torch.compile(function, fullgraph=True, dynamic=True, options=bare if device.type == "cpu" else None)


def _every_size_its_own():
    """Tracing must not take two sizes that are equal now to be one: a kernel serves every shape."""
    config = torch.fx.experimental._config
    return config.patch(use_duck_shape=False) if hasattr(config, "use_duck_shape") else nullcontext()


def _failures():
    return (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError, OSError)


def _give_up(error):
    _broken.append(str(error))
    why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    warnings.warn(
        f"updates are not compiled ({why}), so steps are slower, with the same results. Install a C++ compiler (for "
        "GPUs Triton), or pass compile=False",
        HybridOptWarning,
        stacklevel=6,
    )
