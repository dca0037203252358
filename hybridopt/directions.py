"""Random directions of zeroth-order methods: elementwise noise that is never stored, and its sums with weights.

A direction is a pure function of (key, step, index) and of the position in the parameter, the same to the bit on every
device, for every dtype, however the parameter is cut. NOISE.md is the specification.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from statistics import NormalDist

import torch
from torch import Tensor

from . import fused
from .errors import HybridOptError, check_choice, check_count
from .philox import words

__all__ = ["KINDS", "Direction", "combine_", "values"]

KINDS = {"rademacher": 128, "gaussian": 8}  # elements that share a block of 128 random bits
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CHUNKS = {"cpu": 1 << 19}  # elements worked on at a time without compiling: they should stay in the cache
CHUNK = 1 << 26  # elsewhere: what a temporary may take
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

    def __post_init__(self):
        for name, bits in (("key", 63), ("step", 32), ("index", 32)):
            value = getattr(self, name)
            check_count("Direction", name, value, 0)
            if value >> bits:
                raise HybridOptError(f"Direction: {name}={value} is not allowed; give a whole number below 2**{bits}")
        check_choice("Direction", "kind", self.kind, KINDS)


def values(direction: Direction, start: int, count: int, device: torch.device | str) -> Tensor:
    """The noise at positions start, ..., start + count - 1 of the contiguous, unsharded parameter: float32 [count]."""
    check_count("values", "start", start, 0)
    check_count("values", "count", count, 0)
    device = torch.device(device)
    out = torch.empty(count, device=device)
    for at, end in _chunks(count, device):
        out[at:end] = _noise(direction, start + at, end - at, device)
    return out


def combine_(
    out: Tensor, base: Tensor, terms: Terms, start: int = 0, decay: float = 1.0, compile: bool = False
) -> None:
    """Write decay * base + sum_k scale_k z_k to `out`, for terms (scale, Direction), rounded to nearest.

    out, base: contiguous tensors of one shape, floating dtype and device; the same tensor, or apart. start: position of
    their first element in the parameter. Scales are rounded to float32, decay to 29 bits; the order of arithmetic is
    fixed (NOISE.md), so that the result does not depend on device, compiler or on `compile`, which is only faster.
    HybridOptError for anything else, before `out` is changed.
    """
    _check(out, base, start)
    terms = _rounded(terms)
    decay = _decay(decay)
    wide = out.dtype == torch.float64 or decay != 1 or any(z.kind != "rademacher" for _, z in terms)
    job = fused.Sum(tuple(terms), start, decay, wide)
    with torch.no_grad():
        out, base = out.detach().view(-1), base.detach().view(-1)
        at, end = fused.combine_(out, base, job, _table) if compile and terms else (0, 0)
        for first, last in ((0, at), (end, len(out))):
            _in_chunks(out[first:last], base[first:last], job, start + first)


def _in_chunks(out, base, job, start):
    for at, end in _chunks(len(out), out.device):
        (_wide if job.wide else _narrow)(out[at:end], base[at:end], job, start + at)


def _narrow(out, base, job, start):
    """In float32, where every product is one with +1 or -1."""
    total = None
    for scale, direction in job.terms:
        z = _noise(direction, start, len(out), out.device)
        total = z.mul_(scale) if total is None else total.add_(z, alpha=scale)
    out.copy_(base) if total is None else torch.add(base, total, out=out)


def _wide(out, base, job, start):
    """In float64, where every product of the numbers above is exact."""
    total = base.to(torch.float64) * job.decay
    for scale, direction in job.terms:
        total.add_(_noise(direction, start, len(out), out.device), alpha=scale)
    out.copy_(total if out.dtype == torch.float64 else total.float())


def _noise(direction, start, count, device):
    """As `values`, in one piece, in memory of its own."""
    size = KINDS[direction.kind]
    first, end = start // size, -(-(start + count) // size)
    bits = words(direction.key, first, end - first, direction.step, direction.index, device)
    z = (_signs if direction.kind == "rademacher" else _normals)(bits)
    return z[start - first * size :][:count]


def _signs(bits):
    """+1 for a bit that is 0, -1 for one that is 1, lowest bits first."""
    return torch.embedding(_sign_table(bits.device), bits.view(torch.uint8).view(-1).int()).view(-1)


def _normals(bits):
    return _table(bits.device).index_select(0, bits.view(torch.int16).view(-1).int() & 0xFFFF)


@lru_cache
def _sign_table(device):
    """The signs of every byte: float32 [256, 8]."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return (1 - 2 * bits).float()


@lru_cache
def _table(device):
    """The quantiles of the standard normal at (i + 0.5) / 65536, to nearest multiples of 2**-10: float32 [65536].

    None is so near to the middle of two that another library of mathematics could round it to the other.
    """
    quantile = NormalDist().inv_cdf
    lower = [round(1024 * quantile((i + 0.5) / 65536)) for i in range(32768)]
    return torch.tensor([*lower, *(-x for x in reversed(lower))], device=device) / 1024


def _chunks(count, device):
    size = CHUNKS.get(device.type, CHUNK)
    return ((at, min(at + size, count)) for at in range(0, count, size))


def _rounded(terms):
    """Scales as float32 can hold them, without terms of scale 0."""
    for scale, direction in terms:
        if not isinstance(direction, Direction):
            raise HybridOptError(f"combine_: {direction!r} is no direction; give terms (scale, Direction)")
        _check_finite("scale", scale)
    scales = torch.tensor([float(scale) for scale, _ in terms], dtype=torch.float32).tolist()
    for scale in scales:
        _check_finite("scale", scale)
    return [(scale, direction) for scale, (_, direction) in zip(scales, terms, strict=True) if scale]


def _decay(decay):
    _check_finite("decay", decay)
    mantissa, exponent = math.frexp(decay)
    return math.ldexp(round(math.ldexp(mantissa, DECAY_BITS)), exponent - DECAY_BITS)


def _check_finite(name, value):
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise HybridOptError(f"combine_: {name}={value!r} is not allowed; give a finite number that float32 can hold")


def _check(out, base, start):
    check_count("combine_", "start", start, 0)
    if out.dtype not in DTYPES:
        raise HybridOptError(f"combine_: out.dtype={out.dtype} is not allowed; give one of {DTYPES}")
    for what in ("shape", "dtype", "device"):
        one, other = getattr(out, what), getattr(base, what)
        if one != other:
            raise HybridOptError(f"combine_: out has {what} {one}, base {other}; give tensors that agree in it")
    for name, x in (("out", out), ("base", base)):
        if not x.is_contiguous():
            raise HybridOptError(f"combine_: {name} has strides {x.stride()}; give contiguous tensors (.contiguous())")
    if out.data_ptr() != base.data_ptr() and _overlap(out, base):
        raise HybridOptError("combine_: out and base share a part of their memory; give one tensor twice, or two apart")


def _overlap(one, other):
    ahead = other.data_ptr() - one.data_ptr()
    return -other.nbytes < ahead < one.nbytes
