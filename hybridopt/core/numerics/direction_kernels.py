"""Sums of weights and noise in one compiled pass, in which noise is only ever a bit, or an index, per element."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..errors import HybridOptWarning
from .compiling import compiled, failures, reason
from .host import put
from .noise_adder import Kernel, adder
from .philox import MASK, fill_

if TYPE_CHECKING:
    from .directions import Direction

__all__ = ["Sum", "combine_", "room", "tell"]

BLOCK = 128  # elements: of one block of Rademacher noise, of 16 of Gaussian
BLOCKS = {"rademacher": 1, "gaussian": 16}
CHUNKS = {"cpu": {"rademacher": 1 << 22, "gaussian": 1 << 18}}  # elements a call: bits should stay in the cache
CHUNK = 1 << 27  # elsewhere
MOST = 64  # terms of a kernel
TRIAL = 1 << 11  # blocks of the first call, enough for kernels to use all threads
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TableOf = Callable[[torch.device], Tensor]  # gives the table of Gaussian noise on a device
_kernels: dict[tuple[object, ...], Kernel] = {}
_told: "dict[tuple[Direction, torch.device], Tensor]" = {}  # the numbers of the directions of a step
_broken: set[str] = set()  # types of devices for which nothing can be compiled here


@dataclass(frozen=True)
class Sum:
    """What is added to weights: terms (scale, direction), from position `start` on, in float64 if `wide`."""

    terms: "tuple[tuple[float, Direction], ...]"
    start: int
    decay: float
    wide: bool

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Return the kind of noise of every term."""
        return tuple([direction.kind for _, direction in self.terms])


def combine_(out: Tensor, base: Tensor, job: Sum, table: TableOf) -> tuple[int, int]:
    """Write decay * base + noise to whole blocks of `out`; return where they begin and end.

    Where compiling fails it warns, and does nothing: the blocks are none.

    Args:
        out: float32, bfloat16 or float16 [n].
        base: as `out`, or `out` itself.
        job: the noise, and by what `base` is multiplied.
        table: gives the table of Gaussian noise on a device, float32 [65536].
    """
    first = -job.start % BLOCK
    end = first + (len(out) - first) // BLOCK * BLOCK
    if end - first < 2 * BLOCK or out.dtype not in DTYPES or len(job.terms) > MOST or out.device.type in _broken:
        return 0, 0
    try:
        kernels = _made(_like(out, base, job), job, table)
    except failures() as error:
        _give_up(out.device.type, error)
        return 0, 0
    numbers = _numbers((job.decay, *[scale for scale, _ in job.terms]), out.device)
    size = _chunk(out, job)
    end -= BLOCK * ((end - first) % size == BLOCK)  # a single block would be compiled anew
    for at in range(first, end, size):
        cut = slice(at, min(at + size, end))
        told = job, job.start + at, numbers, table(out.device) if job.wide else None
        _on_blocks(out[cut], base[cut], kernels, told)
    increment_version(out)
    return first, end


def tell(directions: "Sequence[Direction]", device: torch.device) -> None:
    """Send the numbers of directions to a device in one copy; those of earlier calls are forgotten.

    No result depends on it: numbers of other directions are sent one by one, when they are needed.

    Args:
        directions: those of a step.
        device: of the parameters along which they lie.
    """
    for known in [known for known in _told if known[1] == device]:
        del _told[known]
    if directions:
        rows = put([_words(z) for z in directions], torch.int64, device).unbind()
        _told.update({(z, device): row for z, row in zip(directions, rows, strict=True)})


def room(kind: str, count: int, dtype: torch.dtype, device: str) -> int:
    """Return the bytes that one direction takes for a moment: its bits, and where a CPU needs it a copy in float32.

    Args:
        kind: "rademacher" or "gaussian".
        count: elements of the parameter.
        dtype: of the parameter.
        device: type of its device, "cpu" or "cuda".
    """
    size = min(count, CHUNKS.get(device, {}).get(kind, CHUNK))
    exact = device == "cpu" and kind != "rademacher" and dtype != torch.float32
    return BLOCKS[kind] * 16 * size // BLOCK + 4 * size * exact


@dataclass(frozen=True)
class Like:
    """What the kernel of a sum depends on besides its terms; `same`: `base` is the tensor that is written."""

    dtype: torch.dtype
    device: torch.device
    same: bool


def _like(out: Tensor, base: Tensor, job: Sum) -> Like:
    if _by_float32(out, job):
        return Like(torch.float32, out.device, True)
    return Like(out.dtype, out.device, out.data_ptr() == base.data_ptr())


def _by_float32(out: Tensor, job: Sum) -> bool:
    # 16 bits to 64 and back is not vectorized on a CPU, 32 to 64 is; both round to float32 first.
    return job.wide and out.device.type == "cpu" and out.dtype != torch.float32


def _on_blocks(
    out: Tensor, base: Tensor, kernels: tuple[Kernel, Kernel], told: tuple[Sum, int, Tensor, Tensor | None]
) -> None:
    job, start, numbers, table = told
    fill, add = kernels
    bits = [_bits(fill, z, start, len(out), out.device) for _, z in job.terms]
    if _by_float32(out, job):
        exact = base.float()
        add(_blocks(exact), None, bits, numbers, table)
        out.copy_(exact)
    else:
        source = None if out.data_ptr() == base.data_ptr() else _blocks(base)
        add(_blocks(out), source, bits, numbers, table)


def _bits(fill: Kernel, direction: "Direction", start: int, count: int, device: torch.device) -> Tensor:
    """Return the random bits of whole blocks: int32 [blocks, 4], or one int16 an element of Gaussian noise."""
    many = BLOCKS[direction.kind]
    out = torch.empty(count // BLOCK * many, 4, dtype=torch.int32, device=device)
    told = _told.get((direction, device))
    told = put(_words(direction), torch.int64, device) if told is None else told
    fill(out, told, _first(start // BLOCK * many, device))
    return out if many == 1 else _blocks(out.view(torch.int16))


def _words(direction: "Direction") -> list[int]:
    return [direction.key & MASK, direction.key >> 32, direction.step, direction.index]


@lru_cache(maxsize=256)
def _numbers(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Send decay and scales to a device; most parameters of a step share them."""
    return put(numbers, torch.float64, device)


@lru_cache(maxsize=4096)
def _first(block: int, device: torch.device) -> Tensor:
    return torch.tensor(block, device=device)


def _chunk(out: Tensor, job: Sum) -> int:
    sizes = CHUNKS.get(out.device.type, {})
    size = min(sizes.get(kind, CHUNK) for kind in job.kinds) // len(job.terms)
    size = min(size, sizes["gaussian"]) if _by_float32(out, job) else size
    return max(2, size // BLOCK) * BLOCK


def _blocks(x: Tensor) -> Tensor:
    return x.view(-1, 4, 32)


def _made(like: Like, job: Sum, table: TableOf) -> tuple[Kernel, Kernel]:
    """Return both kernels, made where there are none, and tried on other tensors."""
    where = like.device, torch.get_num_threads()
    key = (job.kinds, job.wide, like, *where)
    if where not in _kernels:
        _kernels[where] = _tried_fill(like.device)
    if key not in _kernels:
        _kernels[key] = _tried_add(like, job, _kernels[where], table)
    return _kernels[where], _kernels[key]


def _tried_fill(device: torch.device) -> Kernel:
    kernel, out = _compile(fill_), torch.empty(TRIAL, 4, dtype=torch.int32, device=device)
    torch._dynamo.mark_dynamic(out, 0)
    kernel(out, torch.zeros(4, dtype=torch.int64, device=device), _first(0, device))
    return kernel


def _tried_add(like: Like, job: Sum, fill: Kernel, table: TableOf) -> Kernel:
    kernel, numel = _compile(adder(job.kinds, job.wide)), TRIAL * BLOCK
    out, base = (_blocks(torch.zeros(numel, dtype=like.dtype, device=like.device)) for _ in range(2))
    bits = [_bits(fill, z, 0, numel, like.device) for _, z in job.terms]
    for x in (out, base, *bits):
        torch._dynamo.mark_dynamic(x, 0)
    numbers = torch.zeros(1 + len(bits), dtype=torch.float64, device=like.device)
    kernel(out, None if like.same else base, bits, numbers, table(like.device) if job.wide else None)
    return kernel


def _compile(function: Kernel) -> Kernel:
    return compiled(function, len(_kernels))


def _give_up(kind: str, error: Exception) -> None:
    _broken.add(kind)
    warnings.warn(
        f"noise is not compiled ({reason(error)}), so zeroth-order steps are slower, with the same results. Install a "
        "C++ compiler (for GPUs Triton), or pass compile=False",
        HybridOptWarning,
        stacklevel=4,
    )
