"""Updates compiled whole: one kernel for every combination of parts, for all shapes and all numbers."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..errors import HybridOptWarning
from ..rounding import Seed, tables
from ..state import basis, sliceable, unseeded
from ..update import Now, apart, look, rounds, settle, update, write, write_free_, write_low
from .slices import Slice, slices
from .task import Task

__all__ = ["SMALLEST", "fits", "run"]

SMALLEST = 1 << 16  # elements: below, a call costs more than what it saves
PIECE = 1 << 22  # elements of a slice, where a part of the parameter is copied out
BLOCKS = 1 << 18  # elements of a slice of state in blocks: what was decoded should stay in the cache
_kernels: dict[tuple, Callable] = {}
_of_job: dict[tuple, tuple] = {}  # what a kernel depends on, by one job that needs it
_broken: set[tuple] = set()  # jobs that cannot be compiled here


def fits(task: Task) -> bool:
    """Is it large, in plain tensors, and not mainly matrix products, which gain nothing?"""
    plain = type(task.param) in (Tensor, torch.nn.Parameter) and task.param.numel() >= SMALLEST
    return plain and _elementwise(task.job) and not (_broken and _general(task.job) in _broken)


def run(task: Task, told: dict) -> None:
    """Carry out the task. told: numbers that tasks of one step share, an empty dict at its start.

    Where there is no working compiler it warns, goes on without, and `fits` nothing of the kind any more.
    """
    vectors = _vectors(task, told)
    for piece in _pieces(task):
        if rounds(task.job):
            seen = {}, {}
            for i in range(rounds(task.job)):
                seen = _call(_LOOKS[i], task, piece, vectors, *seen)
            _call(_write, task, piece, vectors, *seen)
        elif apart(task.job):
            chosen = _call(write_low, task, piece, vectors)
            _call(write_free_, task, piece, vectors)
            _call(_put_, task, piece, vectors, chosen)
        else:
            _call(update, task, piece, vectors)
    increment_version([task.param])


def _elementwise(job):
    rules = (job.treatment.full, job.treatment.free)
    subspace = not job.part.disjoint and job.part.slots(job.shape)
    return not subspace and not any(getattr(rule, "products", False) for rule in rules)


def _pieces(task):
    """Slices, where a whole would need temporaries of its size; one where a kernel needs none."""
    job = task.job
    blocks = task.raw and getattr(job.treatment.codec, "block", 0)
    size = BLOCKS if blocks else PIECE
    if task.param.numel() <= size or not (blocks or apart(job)) or not sliceable(job) or rounds(job):
        return [Slice(task.param, task.grad, task.raw, {}, 0)]
    step = max(1, size // job.shape[-1])
    return [piece for _, cut in slices(task.param, task.grad, task.raw, job, task.key, step) for piece in cut]


def _round(i):
    """Round `i` and its end: what it finds leaves the kernel, to be read by later loops, not worked out anew."""

    def look_and_settle(param, grad, raw, job, store, now, rows, rest):
        now = replace(now, rows=rows, rest=rest)
        now = settle(i, look(i, param, grad, raw, job, now), raw, job, now)
        return now.rows, now.rest

    return look_and_settle


_LOOKS = tuple(_round(i) for i in range(4))


def _write(param, grad, raw, job, store, now, rows, rest):
    write(param, grad, raw, job, store, replace(now, rows=rows, rest=rest))


def _put_(param, grad, raw, job, store, now, chosen):
    job.part.up_(param, chosen, basis(raw))


def _vectors(task, told):
    """The numbers of a task as two vectors, so that no kernel depends on their values: floats, and seeds."""
    t, device = task.job.treatment, task.param.device
    lr, decay = (id(x) if isinstance(x, Tensor) else x for x in (task.lr, task.decay))
    key = id(t), task.age, lr, decay, device
    if key not in told:
        now = task.now()
        floats = [now.lr, now.decay, *now.full.values(), *now.free.values()]
        told[key] = _vector(floats, task.job.arithmetic, device), (tuple(now.full), tuple(now.free))
    floats, names = told[key]
    if not task.random:
        return floats, _constant(task.constant, device), (*names, ())
    seeds = task.now().seeds
    return (
        floats,
        torch.tensor([task.constant, *(s.key for s in seeds.values())], device=device),
        (*names, tuple(seeds)),
    )


@lru_cache(maxsize=1 << 14)
def _constant(key, device):
    return torch.tensor([key], device=device)


def _call(function, task, piece, vectors, *more):
    """Call `function` on a slice by its kernel, which is made when there is none."""
    floats, keys, names = vectors
    raws = tuple(piece.raw.values())
    given = (piece.param, piece.grad, floats, keys, *_tables(task, piece), raws, more)
    where = task.param.device, task.param.dtype, task.grad.dtype, torch.get_num_threads()
    one = function, task.job, task.store, where, len(piece.param) == 1
    if one not in _of_job:
        kinds = tuple((x.dtype, x.ndim) for x in (*given[:2], *raws)), tuple(n == 1 for n in piece.param.shape)
        _of_job[one] = function, _general(task.job), task.store, names, tuple(piece.raw), kinds, where
    every = _of_job[one]
    plain = _on_vectors(function, task.job, task.store, names, tuple(piece.raw)) if every not in _kernels else None
    try:
        if plain is None:
            return _kernels[every](*given)
        kernel = _compile(plain, task.param.device)
        with _every_size_its_own():
            out = kernel(*given)
        _kernels[every] = kernel
        return out
    except _failures() as error:  # while compiling, so nothing has been changed
        _give_up(task, error)
        plain = plain or _on_vectors(function, task.job, task.store, names, tuple(piece.raw))
        return plain(*given)


def _on_vectors(function, job, store, names, raw_names):
    """`function` with its numbers in vectors and its state in a tuple."""
    full, free, seeds = names
    job.slots, job.elementwise  # noqa: B018  worked out now, not while it is traced

    def kernel(param, grad, floats, keys, rows, columns, raws, more):
        told, keys = floats[2:].unbind(), keys.unbind()
        of_slots = {name: Seed(key, 0, (rows, columns)) for name, key in zip(seeds, keys[1:], strict=True)}
        now = Now(
            floats[0],
            floats[1],
            dict(zip(full, told[: len(full)], strict=True)),
            dict(zip(free, told[len(full) :], strict=True)),
            keys[0],
            of_slots or unseeded(job),
        )
        return function(param, grad, dict(zip(raw_names, raws, strict=True)), job, store, now, *more)

    return kernel


def _vector(numbers, dtype, device):
    if not any(isinstance(x, Tensor) for x in numbers):
        return torch.tensor(numbers, dtype=dtype, device=device)
    return torch.stack([torch.as_tensor(x, dtype=dtype, device=device) for x in numbers])


def _tables(task, piece):
    """Tables of random bits from the slice's first row on; one element where nothing is random."""
    if not task.random:
        return _nothing(task.param.device)
    first = piece.seeds[""].row if piece.seeds else 0
    rows, columns = tables(first + max(piece.param.shape) + piece.param.numel() // 16, piece.param.device)
    return rows[first:], columns


@lru_cache(maxsize=64)
def _nothing(device):
    return (torch.zeros(2, dtype=torch.int32, device=device),) * 2


def _general(job):
    """What a kernel depends on: not the shape, nor numbers of a part that only follow from it."""
    sizes = getattr(job.part, "sizes", ())
    part = tuple(getattr(job.part, f.name) for f in fields(job.part) if f.name not in sizes)
    return job.treatment, type(job.part), part, job.arithmetic


def _compile(function, device):
    """A kernel of its own code object, so that kernels do not count as each other's recompilations.

    On a CPU with guards on tensors and sizes only: `_call` has checked everything else, and all guards together cost
    more than a small update.
    """
    function.__code__ = function.__code__.replace(co_name=f"{function.__name__}_{len(_kernels)}")
    bare = {"guard_filter_fn": _sizes, "size_asserts": False}
    bare |= {"realize_opcount_threshold": 1000, "realize_reads_threshold": 1000}  # no temporaries
    return torch.compile(function, fullgraph=True, dynamic=True, options=bare if device.type == "cpu" else None)


def _sizes(guards):
    return [guard.guard_type in ("SHAPE_ENV", "TENSOR_MATCH") for guard in guards]


def _every_size_its_own():
    """Tracing must not take two sizes that are equal now to be one: a kernel serves every shape."""
    config = torch.fx.experimental._config
    return config.patch(use_duck_shape=False) if hasattr(config, "use_duck_shape") else nullcontext()


def _failures():
    return (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError, OSError)


def _give_up(task, error):
    told, _ = bool(_broken), _broken.add(_general(task.job))
    if told:
        return
    why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    warnings.warn(
        f"updates are not compiled ({why}), so steps are slower, with the same results. Install a C++ compiler (for "
        "GPUs Triton), or pass compile=False",
        HybridOptWarning,
        stacklevel=6,
    )
