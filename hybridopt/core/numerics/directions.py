"""Random directions of zeroth-order methods: elementwise noise that is never stored, and its sums with weights.

A direction is a pure function of (key, step, index) and of the position in the parameter, the same to the bit on every
device, for every dtype, however the parameter is cut. NOISE.md is the specification.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from ..errors import HybridOptError, check_choice, check_count
from . import direction_kernels
from .noise_tables import normals, quantiles, signs
from .philox import words, words_of_many

__all__ = ["KINDS", "Direction", "combine_", "prepare", "together", "values"]

KINDS = {"rademacher": 128, "gaussian": 8}  # elements that share a block of 128 random bits
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BLOCKS = {"cpu": 1 << 12}  # worked on at a time without compiling: they should stay in the cache
BLOCKS_ELSEWHERE = 1 << 19
SMALL, READY = 1 << 17, 1 << 20  # elements of a parameter, and blocks of all: 16 MiB
DECAY_BITS = 29  # times the 24 of float32 is exact in float64

Terms = Sequence[tuple[float, "Direction"]]


@dataclass(frozen=True)
class Direction:
    """Noise of mean 0 for every element of a parameter, independent for another key, step or index.

    key: 63 bits, of seed and parameter name; step: of the optimizer; index: which direction of that step (n-SPSA).
    kind: "rademacher", +1 or -1 with equal probability, or "gaussian", a standard normal in steps of 2**-10.
    HybridOptError for numbers out of range.
    """

    key: int
    step: int
    index: int = 0
    kind: str = "rademacher"

    def __post_init__(self) -> None:
        for name, value, bits in (("key", self.key, 63), ("step", self.step, 32), ("index", self.index, 32)):
            check_count("Direction", name, value, 0)
            if value >> bits:
                raise HybridOptError(f"Direction: {name}={value} is not allowed; give a whole number below 2**{bits}")
        check_choice("Direction", "kind", self.kind, KINDS)

    def values(self, start: int, count: int, device: torch.device) -> Tensor:
        """Return the noise at positions start, ..., start + count - 1: float32 [count].

        Args:
            start: position of the first element in the flattened parameter.
            count: elements.
            device: where the tensor is made.
        """
        return values(self, start, count, device)

    def drawn(self, numel: int) -> "tuple[Direction, int] | None":
        """Return what must be drawn for `numel` elements: this direction, and all of them; None for none."""
        return (self, numel) if numel else None


_ready: dict[tuple[Direction, torch.device], Tensor] = {}  # bits that were worked out beforehand


def prepare(wanted: Sequence[tuple[Direction, int]], device: torch.device) -> None:
    """Work out the bits of small parameters' directions together, as that takes no longer than for one of them.

    Large ones are passed over, as are those that would take more than 16 MiB together. What was prepared before on
    this device is forgotten; no result depends on it. `wanted`: directions with the elements of their parameters.
    """
    for known in [known for known in _ready if known[1] == device]:
        del _ready[known]
    if chosen := together(wanted):
        steps = [(z.step, z.index) for z in chosen]
        bits = words_of_many([z.key for z in chosen], list(chosen.values()), steps, device)
        _ready.update({(z, device): own for z, own in zip(chosen, bits, strict=True)})
    direction_kernels.tell([z for z in dict(wanted) if z not in chosen], device)


def together(wanted: Sequence[tuple[Direction, int]]) -> dict[Direction, int]:
    """Return the directions of `wanted` that `prepare` works out, and of how many blocks of 16 bytes each is made."""
    chosen: dict[Direction, int] = {}
    left = READY
    for direction, count in wanted:
        blocks = -(-count // KINDS[direction.kind])
        if 0 < count <= SMALL and blocks <= left and direction not in chosen:
            chosen[direction], left = blocks, left - blocks
    return chosen


def values(direction: Direction, start: int, count: int, device: torch.device | str) -> Tensor:
    """Return a piece of a direction of a contiguous, unsharded parameter: float32 [count].

    Args:
        direction: the noise.
        start: position of the first element in the flattened parameter.
        count: elements.
        device: where the tensor is made.
    """
    check_count("values", "start", start, 0)
    check_count("values", "count", count, 0)
    device = torch.device(device)
    out = torch.empty(count, device=device)
    for at, end in _chunks(count, device, [direction.kind]):
        out[at:end] = _noise(direction, start + at, end - at, device)
    return out


def combine_(
    out: Tensor, base: Tensor, terms: Terms, start: int = 0, decay: float = 1.0, compile: bool = False
) -> None:
    """Write decay * base + sum_k scale_k z_k to `out`, rounded to nearest.

    Scales are rounded to float32, decay to 29 bits; the order of arithmetic is fixed (NOISE.md), so that the result
    does not depend on device, compiler or on `compile`.

    Args:
        out: contiguous, of floating dtype.
        base: of the shape, dtype and device of `out`; the same tensor, or one apart.
        terms: (scale_k, z_k).
        start: position of the first element of `out` in the flattened parameter.
        decay: by what `base` is multiplied.
        compile: use compiled kernels where they can be made; only faster.

    Raises:
        HybridOptError: for anything else, before `out` is changed.
    """
    _check(out, base, start)
    rounded = _rounded(terms)
    decay = _decay(decay)
    wide = out.dtype == torch.float64 or decay != 1 or "gaussian" in [z.kind for _, z in rounded]
    job = direction_kernels.Sum(tuple(rounded), start, decay, wide)
    with torch.no_grad():
        out, base = out.detach().view(-1), base.detach().view(-1)
        compile = compile and not all((z, out.device) in _ready for _, z in rounded)
        at, end = direction_kernels.combine_(out, base, job, quantiles) if compile else (0, 0)
        for first, last in ((0, at), (end, len(out))):
            if first < last:
                _in_chunks(out[first:last], base[first:last], job, start + first)


def _in_chunks(out: Tensor, base: Tensor, job: direction_kernels.Sum, start: int) -> None:
    for at, end in _chunks(len(out), out.device, job.kinds):
        (_wide if job.wide else _narrow)(out[at:end], base[at:end], job, start + at)


def _narrow(out: Tensor, base: Tensor, job: direction_kernels.Sum, start: int) -> None:
    """Work in float32, where every product is one with +1 or -1."""
    total = None
    for scale, direction in job.terms:
        z = _noise(direction, start, len(out), out.device)
        total = z.mul_(scale) if total is None else total.add_(z, alpha=scale)
    out.copy_(base) if total is None else torch.add(base, total, out=out)


def _wide(out: Tensor, base: Tensor, job: direction_kernels.Sum, start: int) -> None:
    """Work in float64, where every product of the numbers above is exact."""
    total = base.to(torch.float64) * job.decay
    for scale, direction in job.terms:
        total.add_(_noise(direction, start, len(out), out.device), alpha=scale)
    out.copy_(total if out.dtype == torch.float64 else total.float())


def _noise(direction: Direction, start: int, count: int, device: torch.device) -> Tensor:
    """Return what `values` does, in one piece, in memory of its own."""
    size = KINDS[direction.kind]
    first, end = start // size, -(-(start + count) // size)
    ready = _ready.get((direction, device))
    bits = None if ready is None else ready[first:end]
    if bits is None or len(bits) < end - first:
        bits = words(direction.key, first, end - first, direction.step, direction.index, device)
    z = signs(bits) if direction.kind == "rademacher" else normals(bits)
    return z[start - first * size :][:count]


def _chunks(count: int, device: torch.device, kinds: Iterable[str]) -> list[tuple[int, int]]:
    size = BLOCKS.get(device.type, BLOCKS_ELSEWHERE) * min(map(KINDS.__getitem__, kinds), default=128)
    return [(at, min(at + size, count)) for at in range(0, count, size)]


def _rounded(terms: Terms) -> list[tuple[float, Direction]]:
    """Round scales as float32 can hold them, and leave out terms of scale 0."""
    for scale, direction in terms:
        if not isinstance(direction, Direction):
            raise HybridOptError(f"combine_: {direction!r} is no direction; give terms (scale, Direction)")
        _check_finite("scale", scale)
    scales = torch.tensor([float(scale) for scale, _ in terms], dtype=torch.float32, device="cpu").tolist()
    if not all(map(math.isfinite, scales)):
        _check_finite("scale", next(scale for scale in scales if not math.isfinite(scale)))
    return [(scale, direction) for scale, (_, direction) in zip(scales, terms, strict=True) if scale]


def _decay(decay: float) -> float:
    _check_finite("decay", decay)
    mantissa, exponent = math.frexp(decay)
    return math.ldexp(round(math.ldexp(mantissa, DECAY_BITS)), exponent - DECAY_BITS)


def _check_finite(name: str, value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise HybridOptError(f"combine_: {name}={value!r} is not allowed; give a finite number that float32 can hold")


def _check(out: Tensor, base: Tensor, start: int) -> None:
    check_count("combine_", "start", start, 0)
    if out.dtype not in DTYPES:
        raise HybridOptError(f"combine_: out.dtype={out.dtype} is not allowed; give one of {DTYPES}")
    pairs = {"shape": (out.shape, base.shape), "dtype": (out.dtype, base.dtype), "device": (out.device, base.device)}
    for what, (one, other) in pairs.items():
        if one != other:
            raise HybridOptError(f"combine_: out has {what} {one}, base {other}; give tensors that agree in it")
    for name, x in (("out", out), ("base", base)):
        if not x.is_contiguous():
            raise HybridOptError(f"combine_: {name} has strides {x.stride()}; give contiguous tensors (.contiguous())")
    if out.data_ptr() != base.data_ptr() and _overlap(out, base):
        raise HybridOptError(
            "combine_: out and base share a part of their memory; give one tensor twice, or two apart"
        )


def _overlap(one: Tensor, other: Tensor) -> bool:
    ahead = other.data_ptr() - one.data_ptr()
    return -other.nbytes < ahead < one.nbytes
